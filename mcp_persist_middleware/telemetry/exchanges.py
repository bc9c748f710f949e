"""Exchanges as OpenTelemetry's conventions for MCP have them: one span and one duration each. What
a client may name is told apart as far as `BOUNDED` says, on spans too."""

import re
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from opentelemetry import context, propagate, trace
from opentelemetry.trace import Link, SpanKind, StatusCode

from mcp_persist_middleware.model import (
    ExchangeOutcome,
    FinishedExchange,
    RequestId,
    StreamRecord,
)
from mcp_persist_middleware.telemetry import serving
from mcp_persist_middleware.telemetry.bounded import OTHER
from mcp_persist_middleware.telemetry.instrument import BOUNDED
from mcp_persist_middleware.telemetry.spans import origin, traceparent, tracer

# Numbers, UUIDs and the like; what is longer or has spaces may say anything.
_PLAIN_ID = re.compile(r"[\w.:/+=-]{1,64}", re.ASCII)
_CODE = re.compile(r"-?\d+")
_TARGETS = {"tools/call": "gen_ai.tool.name", "prompts/get": "gen_ai.prompt.name"}
_NANO = 1_000_000_000


class Operation(NamedTuple):
    """What is asked for."""

    method: str
    name: str
    version: str
    request_id: RequestId
    carrier: Mapping[str, str] | None
    """The trace that the request itself carries (`params._meta`, SEP-414)."""
    http_version: str


def _attributes(operation: Operation, *, is_proven: bool) -> dict[str, str]:
    method, http = operation.method, operation.http_version
    found = {
        "mcp.method.name": _told("mcp.method.name", method, is_proven=is_proven),
        "network.protocol.name": "http",
        "network.protocol.version": http,
        "network.transport": "quic" if http == "3" else "tcp",
    }
    if (target := _TARGETS.get(method)) is not None:
        found[target] = _told(target, operation.name, is_proven=is_proven)
    if method == "tools/call":
        found["gen_ai.operation.name"] = "execute_tool"
    if operation.version:
        found["mcp.protocol.version"] = _told("mcp.protocol.version", operation.version)
    return found


def _told(name: str, value: str, *, is_proven: bool = True) -> str:
    return BOUNDED[name].told(value, is_proven=is_proven)


def _named(attributes: Mapping[str, Any]) -> str:
    """A span's name."""
    targets = (attributes[key] for key in _TARGETS.values() if key in attributes)
    return " ".join((attributes["mcp.method.name"], *targets))


def _failure(outcome: ExchangeOutcome, error_type: str) -> dict[str, str]:
    found = {"mcp_persist.outcome": outcome.value}
    if error_type:
        found["error.type"] = _told("error.type", error_type)
        if _CODE.fullmatch(error_type):
            found["rpc.response.status_code"] = found["error.type"]
    return found


class OperationSpan:
    """The span of one exchange. Its parent is what the request itself carries, linked to where it
    came in; or that, where it carries nothing.

    Args:
        worker: that runs it.
    """

    def __init__(self, operation: Operation, worker: str) -> None:
        self._operation = operation
        attributes: dict[str, Any] = _attributes(operation, is_proven=False)
        number = operation.request_id
        if isinstance(number, int) or (isinstance(number, str) and _PLAIN_ID.fullmatch(number)):
            attributes["jsonrpc.request.id"] = str(number)
        parent, links = _parent(operation.carrier)
        self._span = tracer.start_span(
            _named(attributes),
            parent,
            SpanKind.SERVER,
            {**attributes, "mcp_persist.worker": worker},
            links,
        )
        self.traceparent = traceparent(self._span)

    def enter(self) -> None:
        """Make it the current one of this task, to its end."""
        context.attach(trace.set_span_in_context(self._span))

    def note(self, what: str) -> None:
        """Something happened to it."""
        self._span.add_event(what)

    def abandon(self) -> None:
        """What becomes of it somebody else tells."""
        self._span.set_status(StatusCode.ERROR)
        self._span.end()

    def end(self, finished: FinishedExchange) -> None:
        """It is over."""
        attributes = _attributes(
            self._operation, is_proven=finished.outcome is ExchangeOutcome.OK
        ) | _failure(finished.outcome, finished.error_type)
        self._span.update_name(_named(attributes))
        self._span.set_attributes(attributes)
        if finished.error_type:
            self._span.set_status(StatusCode.ERROR)
        self._span.end()
        serving.operation_seconds.record_told(finished.lasted, attributes)
        if finished.first_after is not None:
            told = {"mcp.method.name": attributes["mcp.method.name"]}
            serving.first_event_seconds.record_told(finished.first_after, told)


def _parent(carrier: Mapping[str, str] | None) -> tuple[context.Context | None, list[Link]]:
    if carrier is None:
        return None, []
    extracted = propagate.extract(carrier)
    here = trace.get_current_span().get_span_context()
    there = trace.get_current_span(extracted).get_span_context()
    if not there.is_valid or there == here:
        return None, []
    return extracted, [Link(here)] if here.is_valid else []


def tell_session_end(began_at: float, now: float, version: str, how: str) -> None:
    """A session is over that began then, if that is known."""
    if began_at > 0:
        attributes = {
            "mcp.protocol.version": _told("mcp.protocol.version", version),
            "mcp_persist.end": how,
            "network.protocol.name": "http",
            "network.transport": "tcp",
        }
        serving.session_seconds.record_told(max(0.0, now - began_at), attributes)


def _known(finished: FinishedExchange) -> dict[str, str]:
    """What was called, of a call of which that may not be known any more."""
    if not finished.method:
        return {"mcp.method.name": OTHER}
    found = {"mcp.method.name": _told("mcp.method.name", finished.method, is_proven=False)}
    if (target := _TARGETS.get(finished.method)) is not None and finished.name:
        found[target] = _told(target, finished.name, is_proven=False)
    if finished.version:
        found["mcp.protocol.version"] = _told("mcp.protocol.version", finished.version)
    return found


def interrupted(record: StreamRecord, finished: FinishedExchange, worker: str) -> None:
    """An exchange whose worker is gone, and its span with it: in that one's trace it is seen that
    it began, and that it was ended here."""
    known = origin(record.trace)
    parent = trace.set_span_in_context(trace.NonRecordingSpan(known)) if known else None
    attributes = _failure(finished.outcome, finished.error_type) | _known(finished)
    began = int(record.created_at * _NANO)
    span = tracer.start_span(
        "mcp_persist.interrupted",
        parent,
        SpanKind.INTERNAL,
        {**attributes, "mcp_persist.worker": worker},
        start_time=min(began, time.time_ns()),
    )
    span.set_status(StatusCode.ERROR)
    span.end()
    serving.operation_seconds.record_told(finished.lasted, attributes)
