"""What a process exports: its spans and its metrics, since a test began."""

from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from mcp_persist_middleware.telemetry import look


class Telemetry:
    """All spans and metrics of the process, since the test began."""

    def __init__(self, spans: InMemorySpanExporter, reader: InMemoryMetricReader) -> None:
        self._spans, self._reader = spans, reader
        self._before = self._numbers()

    @property
    def spans(self) -> Any:
        return self._spans.get_finished_spans()

    def _numbers(self) -> dict[str, float]:
        data, found = self._reader.get_metrics_data(), dict[str, float]()
        for resource in data.resource_metrics if data else []:
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    points: Any = metric.data.data_points
                    values = (p.value if hasattr(p, "value") else p.count for p in points)
                    found[metric.name.removeprefix("mcp_persist.")] = sum(values)
        return found

    def counted(self, name: str) -> float:
        """By how much an instrument has moved; of a histogram, how many values it has."""
        return self._numbers().get(name, 0) - self._before.get(name, 0)

    def values(self, name: str) -> list[Any]:
        """What an instrument shows, for each set of attributes."""
        data = self._reader.get_metrics_data()
        return [
            point
            for resource in (data.resource_metrics if data else [])
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
        ]

    def points(self, name: str) -> list[dict[str, Any]]:
        """The attributes that values of an instrument have come with."""
        return [dict(point.attributes) for point in self.values(name)]

    def by_namespace(self, name: str) -> dict[str, float]:
        """What a counter says of each namespace that it tells apart."""
        return {
            str(point.attributes.get("namespace")): getattr(point, "value", 0)
            for point in self.values(f"mcp_persist.{name}")
        }

    def text(self) -> str:
        """Everything that is exported, as text."""
        data = self._reader.get_metrics_data()
        return "\n".join([*(span.to_json() for span in self.spans), data.to_json() if data else ""])


class Spans(InMemorySpanExporter):
    """Keeps spans while a test looks at them; a process has many other tests."""

    is_looked_at = False

    def export(self, spans: Any) -> SpanExportResult:
        return super().export(spans) if self.is_looked_at else SpanExportResult.SUCCESS


@pytest.fixture(scope="session")
def providers() -> tuple[Spans, InMemoryMetricReader]:
    """OpenTelemetry's providers are set once for a process."""
    spans, reader = Spans(), InMemoryMetricReader()
    tracing = TracerProvider()
    tracing.add_span_processor(SimpleSpanProcessor(spans))
    trace.set_tracer_provider(tracing)
    metrics.set_meter_provider(MeterProvider([reader]))
    assert look()
    return spans, reader


@pytest.fixture
def telemetry(providers: tuple[Spans, InMemoryMetricReader]) -> Iterator[Telemetry]:
    spans, reader = providers
    spans.is_looked_at = True
    yield Telemetry(spans, reader)
    spans.is_looked_at = False
    spans.clear()
