"""What a request is to us: decided from method, headers, path and body, nothing else."""

import enum
from dataclasses import dataclass

from mcp_persist_middleware.protocol import eras, event_id, headers, hints, jsonrpc
from mcp_persist_middleware.protocol.eras import Era
from mcp_persist_middleware.settings import Settings


class RequestKind(enum.Enum):
    """The way a request takes through the middleware."""

    PASS = "pass"
    """Not ours: the application sees the request as it came."""
    EXCHANGE = "exchange"
    """A POST that asks for something: its answer is logged if it is an event stream."""
    STREAM = "stream"
    """A GET that opens the session's own stream."""
    RESUME = "resume"
    """A GET with a cursor."""
    FOREIGN_CURSOR = "foreign cursor"
    """A GET with a cursor that no stream of ours ever gave."""
    DELETE = "delete"
    """The end of a session."""
    BODY = "body"
    """A POST that can only be judged by its body."""
    LISTEN = "listen"
    """A POST that subscribes to what changes (2026-07-28): nobody comes back to its stream."""
    SESSION = "session"
    """Anything else with a session's id: the application's to answer, in that session."""


@dataclass(frozen=True, slots=True)
class Request:
    """A classified request."""

    kind: RequestKind
    era: Era = eras.EARLY
    session: str = ""
    call: jsonrpc.Call | None = None
    cursor: event_id.Position | None = None

    def anew(self) -> "Request":
        """A GET with a cursor, as if it had none."""
        return Request(RequestKind.STREAM, self.era, self.session)


PASS = Request(RequestKind.PASS)


def by_head(
    method: str, raw: headers.RawHeaders, settings: Settings, *, known_path: bool
) -> Request:
    """Judge a request by its head; `RequestKind.BODY` asks for `by_body`.

    Args:
        known_path: this path has answered an MCP request with success before.
    """
    version, session = (
        headers.get(raw, headers.PROTOCOL_VERSION),
        headers.get(raw, headers.SESSION_ID),
    )
    era = eras.era_of(version)
    if era is None or era.is_left_alone(settings):
        # Whose the session is does not depend on the revision: the application may not know it.
        return Request(RequestKind.SESSION, session=session) if session else PASS
    is_mcp = known_path or version is not None or session is not None
    found, in_session = Request(RequestKind.PASS, era, session or ""), bool(session)
    match method:
        case "POST" if headers.media_type(raw) == b"application/json" or in_session:
            candidate = is_mcp or headers.accepts_event_stream(raw)
            return _as(found, RequestKind.BODY) if candidate else PASS
        case "GET" if (cursor := headers.get(raw, headers.LAST_EVENT_ID)) is not None:
            position = event_id.parse(cursor)
            if position is not None:
                return Request(RequestKind.RESUME, era, session or "", cursor=position)
            return _as(found, RequestKind.FOREIGN_CURSOR) if is_mcp else PASS
        case "GET" if in_session and era.keeps_sessions and headers.accepts_event_stream(raw):
            return _as(found, RequestKind.STREAM)
        case "DELETE" if in_session:
            return _as(found, RequestKind.DELETE)
        case _:
            return _as(found, RequestKind.SESSION) if in_session else PASS


def by_body(head: Request, raw: headers.RawHeaders, body: bytes, *, known_path: bool) -> Request:
    """Judge a POST by its body. A chat endpoint or another protocol that streams JSON-RPC
    passes: an exchange carries a session, a protocol version, or an `initialize`, or goes to a
    path that has answered one of these."""
    call = jsonrpc.parse(body)
    if call is None or not call.request_ids or not headers.accepts_event_stream(raw):
        return PASS
    if call.method == hints.METHOD:
        is_one = head.era.disconnect_cancels and not head.session and len(call.request_ids) == 1
        return Request(RequestKind.LISTEN, head.era, "", call) if is_one else PASS
    if call.is_initialize and call.version is not None:
        return Request(
            RequestKind.EXCHANGE, eras.era_of_initialize(call.version), head.session, call
        )
    is_mcp = known_path or head.session or headers.get(raw, headers.PROTOCOL_VERSION) is not None
    return Request(RequestKind.EXCHANGE, head.era, head.session, call) if is_mcp else PASS


def _as(request: Request, kind: RequestKind) -> Request:
    return Request(kind, request.era, request.session)
