"""The spans, and where a trace goes on. No attribute carries a payload, a session, a principal or a
URL."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from opentelemetry import context, propagate, trace
from opentelemetry.trace import Link, Span, SpanContext, SpanKind

from mcp_persist_middleware.telemetry.instrument import NAME, VERSION

tracer = trace.get_tracer(NAME, VERSION)


def traceparent(span: Span | None = None) -> str:
    """A span, or the current one, as another process may go on with it; empty without one."""
    found = span if span is not None else trace.get_current_span()
    if not found.get_span_context().is_valid:
        return ""
    carrier: dict[str, str] = {}
    propagate.inject(carrier, trace.set_span_in_context(found))
    return carrier.get("traceparent", "")


@contextmanager
def continued(carrier: Mapping[str, str]) -> Iterator[None]:
    """The trace of a request that came from another worker."""
    token = context.attach(propagate.extract(carrier))
    try:
        yield
    finally:
        context.detach(token)


def origin(traceparent: str) -> SpanContext | None:
    """The span that a `traceparent` names."""
    if not traceparent:
        return None
    found = propagate.extract({"traceparent": traceparent}, context.Context())
    named = trace.get_current_span(found).get_span_context()
    return named if named.is_valid else None


@contextmanager
def replay_span(trace_of_stream: str, worker: str) -> Iterator[Span]:
    """The span of a resume, linked to the request that made the stream."""
    known = origin(trace_of_stream)
    with tracer.start_as_current_span(
        "mcp_persist.replay",
        kind=SpanKind.SERVER,
        links=[Link(known)] if known is not None else [],
        attributes={"mcp_persist.worker": worker},
    ) as span:
        yield span
