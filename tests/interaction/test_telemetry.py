"""What an operator sees: spans that link, numbers that add up, and no secret anywhere."""

import logging
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from mcp_persist_middleware import ConfigurationError, Persistence, PersistMiddleware, StoreError
from mcp_persist_middleware import telemetry as instruments
from mcp_persist_middleware.persistence import access_to
from tests.multiworker.stateful_app import tenant
from tests.support.scripted import Call, Scripted, persisted, serving, until
from tests.support.session import RawSession, last_id

SECRETS = {
    "authorization": "Bearer tok-SECRET",
    "cookie": "id=cookie-SECRET",
    "x-api-key": "key-SECRET",
}
PAYLOAD = "payload-SECRET"


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

    def by_namespace(self, name: str) -> dict[str, float]:
        """What a counter says of each namespace that it tells apart."""
        data = self._reader.get_metrics_data()
        return {
            str(point.attributes.get("namespace")): getattr(point, "value", 0)
            for resource in (data.resource_metrics if data else [])
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == f"mcp_persist.{name}"
            for point in metric.data.data_points
        }

    def text(self) -> str:
        """Everything that is exported, as text."""
        data = self._reader.get_metrics_data()
        return "\n".join([*(span.to_json() for span in self.spans), data.to_json() if data else ""])


@pytest.fixture(scope="session")
def providers() -> tuple[InMemorySpanExporter, InMemoryMetricReader]:
    """OpenTelemetry's providers are set once for a process."""
    spans, reader = InMemorySpanExporter(), InMemoryMetricReader()
    tracing = TracerProvider()
    tracing.add_span_processor(SimpleSpanProcessor(spans))
    trace.set_tracer_provider(tracing)
    metrics.set_meter_provider(MeterProvider([reader]))
    return spans, reader


@pytest.fixture
def telemetry(providers: tuple[InMemorySpanExporter, InMemoryMetricReader]) -> Telemetry:
    spans, reader = providers
    spans.clear()
    return Telemetry(spans, reader)


async def two(call: Call) -> None:
    await call.head()
    await call.progress(1, PAYLOAD)
    await call.result(PAYLOAD)


async def crash(call: Call) -> None:
    await call.head()
    await call.progress(1, PAYLOAD)
    raise RuntimeError("the tool broke")


async def test_a_resume_is_a_span_that_links_to_the_request_it_goes_on_with(
    tmp_store: str, telemetry: Telemetry
) -> None:
    tracer = trace.get_tracer("tests")
    app = Scripted(two=two)

    async def traced(scope: Any, receive: Any, send: Any) -> None:
        with tracer.start_as_current_span(f"outer {scope.get('method')}"):
            await middleware(scope, receive, send)

    persistence = Persistence(url=tmp_store)
    middleware = PersistMiddleware(app, persistence=persistence)
    async with persistence, serving(traced) as port:
        session = await RawSession.open(port)
        telemetry._spans.clear()
        frames = await (await session.call("two")).take(2)
        await (await session.get(frames[0].id)).body()
    (call,) = [span for span in telemetry.spans if span.name == "outer POST"]
    (replay,) = [span for span in telemetry.spans if span.name == "mcp_persist.replay"]
    assert replay.instrumentation_scope.version == instruments.VERSION != "0.0.0"
    assert [link.context.span_id for link in replay.links] == [call.context.span_id]
    (outer,) = [span for span in telemetry.spans if span.name == "outer GET"]
    assert replay.parent is not None
    assert replay.parent.span_id == outer.context.span_id


async def test_the_instruments_count_what_has_happened(
    tmp_store: str, telemetry: Telemetry
) -> None:
    async with persisted(Scripted(two=two), tmp_store) as (port, opened):
        session = await RawSession.open(port)
        # The answer to `initialize` may be here before its commit.
        live = (await access_to(opened).context()).writer.live
        await until(lambda: not live)
        events = telemetry.counted("events")
        frames = await (await session.call("two")).take(2)
        await until(lambda: telemetry.counted("events") - events == 2)
        await (await session.get(frames[0].id)).body()
        await (await session.get(last_id(frames))).body()
    assert telemetry.counted("resumes") == 2
    assert telemetry.counted("replayed.events") == 1
    assert telemetry.counted("commit.duration") == telemetry.counted("batch.events") > 0
    assert telemetry.counted("event.bytes") > len(PAYLOAD)
    # What goes up comes down.
    for gauge in ("streams.open", "readers", "exchanges.detached"):
        assert telemetry.counted(gauge) == 0, gauge


async def test_no_secret_reaches_a_log_a_span_a_metric_or_an_error(
    tmp_path: Path, tmp_store: str, telemetry: Telemetry, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="mcp_persist_middleware")
    async with persisted(Scripted(two=two, crash=crash), tmp_store) as (port, _):
        session = await RawSession.open(port, extra=SECRETS)
        for tool in ("two", "crash"):
            frames = await (await session.call(tool)).take(2)
            await (await session.get(frames[0].id)).body()
        await (await session.get("garbage-SECRET")).body()
        # A statement that fails is not shown with its parameters.
        with sqlite3.connect(tmp_path / "events.db") as outside:
            outside.execute("DROP TABLE mcp_event")
        await (await session.call("two")).take(2)
        # One that SQLAlchemy reports has the body of initialize among its parameters.
        with sqlite3.connect(tmp_path / "events.db") as outside:
            outside.execute("DROP TABLE mcp_session")
        hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": SECRETS}
        await (await RawSession(port, extra=SECRETS).post("initialize", hello)).body()
    exported = telemetry.text() + caplog.text
    assert "SECRET" not in exported
    assert session.session_id is not None
    assert session.session_id not in exported
    assert "the tool broke" in caplog.text
    assert caplog.text.count("no such table") >= 2


async def test_what_a_namespace_does_is_counted_for_it_alone(
    tmp_store: str, telemetry: Telemetry
) -> None:
    async with persisted(Scripted(two=two, crash=crash), tmp_store, namespace=tenant) as (port, _):
        for name in ("ann-metrics", "bob-metrics"):
            session = await RawSession.open(port, extra={"x-tenant": name})
            frames = await (await session.call("two")).take(2)
            await (await session.get(frames[0].id)).body()
            await (await session.call("crash")).body()
    for counter in ("events", "event.bytes", "resumes", "sessions", "streams.interrupted"):
        assert {"ann-metrics", "bob-metrics"} <= set(telemetry.by_namespace(counter)), counter


async def test_what_retention_removes_is_counted_for_its_namespace(
    tmp_store: str, telemetry: Telemetry
) -> None:
    keeping = {"ttl": 0, "purge_interval": 0.1, "namespace": tenant}
    calls = {"ann-purged": 1, "bob-purged": 3}
    # Each has a stream for `initialize`, of one event, and one for each call, of two.
    streams = {name: 1 + count for name, count in calls.items()}
    numbers = {name: 1 + 2 * count for name, count in calls.items()}

    def removed() -> list[dict[str, float]]:
        counters = [telemetry.by_namespace(f"purged.{what}") for what in ("streams", "events")]
        return [{name: counted.get(name, 0) for name in calls} for counted in counters]

    async with persisted(Scripted(two=two), tmp_store, **keeping) as (port, _):
        for name, count in calls.items():
            session = await RawSession.open(port, extra={"x-tenant": name})
            for _ in range(count):
                await (await session.call("two")).take(2)
        await until(lambda: sum(removed()[1].values()) >= sum(numbers.values()))
        await until(lambda: sum(removed()[0].values()) >= sum(streams.values()))
    assert removed() == [streams, numbers]


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://ann:url-SECRET@127.0.0.1:1/db",
        "nonsense://ann:url-SECRET@127.0.0.1:port/db",
        "sqlite+aiosqlite://ann:url-SECRET@/no/such/directory/events.db",
    ],
)
async def test_the_password_in_a_url_is_in_no_error(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises((ConfigurationError, StoreError)) as raised:
        async with Persistence(url=url):
            pass
    error: BaseException | None = raised.value
    while error is not None:
        assert "SECRET" not in f"{error} {error!r} {getattr(error, 'fields', '')}"
        error = error.__cause__ if not error.__suppress_context__ else None
    assert "SECRET" not in caplog.text


async def test_no_more_namespaces_are_told_apart_than_may(
    tmp_store: str, telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(instruments, "_MOST_NAMESPACES", 3)
    monkeypatch.setattr(instruments._Counter, "_known", set())

    async def one(call: Call) -> None:
        await call.head()
        await call.result()

    async with persisted(Scripted(one=one), tmp_store, namespace=tenant) as (port, _):
        before = sum(telemetry.by_namespace("events").values())
        for number in range(8):
            session = await RawSession.open(port, extra={"x-tenant": f"many-{number}"})
            await (await session.call("one")).take(1)
        await until(lambda: sum(telemetry.by_namespace("events").values()) >= before + 16)
        found = {name for name in telemetry.by_namespace("events") if "many" in name}
        assert len(found) == 3
        assert telemetry.by_namespace("events")["(other)"] == 10
