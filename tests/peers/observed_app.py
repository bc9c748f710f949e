"""A server that exports what it sees to files, a line each: spans as they end, and all metrics
twice a second."""

import asyncio
import os
from pathlib import Path
from typing import Any

from opentelemetry import metrics, propagate, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import ConsoleMetricExporter, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

from mcp_persist_middleware import PersistMiddleware
from tests.support.scripted import Call, Scripted


def observe(name: str, directory: Path) -> None:
    """Export to files of this name from now on."""
    resource = Resource.create({"service.name": name})
    spans = (directory / f"{name}.spans").open("a", buffering=1)
    tracing = TracerProvider(resource=resource)
    exporter = ConsoleSpanExporter(out=spans, formatter=lambda span: span.to_json(None) + "\n")
    tracing.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(tracing)
    numbers = (directory / f"{name}.metrics").open("a", buffering=1)
    shown = ConsoleMetricExporter(out=numbers, formatter=lambda data: data.to_json(None) + "\n")
    reader = PeriodicExportingMetricReader(shown, export_interval_millis=500)
    metrics.set_meter_provider(MeterProvider([reader], resource))


async def slow(call: Call) -> None:
    arguments = call.request["params"]["arguments"]
    await call.head()
    for number in range(1, arguments["steps"] + 1):
        await call.progress(number)
        await asyncio.sleep(arguments["pause"])
    await call.result()


async def search(call: Call) -> None:
    await call.head()
    await asyncio.sleep(0.02)
    await call.result("found " * 300)


async def flaky(call: Call) -> None:
    await call.head()
    text = [{"type": "text", "text": "not today"}]
    await call.emit({"id": call.request["id"], "result": {"content": text, "isError": True}})
    await call.end()


async def strict(call: Call) -> None:
    await call.head()
    await call.emit({"id": call.request["id"], "error": {"code": -32602, "message": "no"}})
    await call.end()


if "OBSERVED_NAME" in os.environ:
    observe(os.environ["OBSERVED_NAME"], Path(os.environ["OBSERVED_IN"]))
    _tracer = trace.get_tracer("http")
    _persisted = PersistMiddleware(
        Scripted(slow=slow, search=search, flaky=flaky, strict=strict),
        os.environ["OBSERVED_URL"],
        compression="gzip",
        detach_seconds=30.0,
    )

    async def app(scope: Any, receive: Any, send: Any) -> None:
        """The application, with a span for each HTTP request as an instrumented server has it."""
        if scope["type"] != "http":
            await _persisted(scope, receive, send)
            return
        carrier = {name.decode(): value.decode() for name, value in scope["headers"]}
        name = f"{scope['method']} {scope['path']}"
        with _tracer.start_as_current_span(name, propagate.extract(carrier), trace.SpanKind.SERVER):
            await _persisted(scope, receive, send)
