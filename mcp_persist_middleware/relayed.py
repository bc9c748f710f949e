"""A relay's other end: a request that came from another worker, and the answer that goes back."""

from starlette.types import Message, Scope

from mcp_persist_middleware.asgi import EXTENSION
from mcp_persist_middleware.protocol import headers
from mcp_persist_middleware.relay.envelope import BufferedResponse, RequestEnvelope, StreamResponse
from mcp_persist_middleware.settings import Settings
from mcp_persist_middleware.streams import remote
from mcp_persist_middleware.worker import Parts


class Collected:
    """Takes an answer that is no event stream, for a client on another worker."""

    def __init__(self, settings: Settings) -> None:
        self._limit = settings.max_event_bytes
        self._status = 500
        self._head: headers.RawHeaders = []
        self._body = bytearray()

    async def __call__(self, message: Message) -> None:
        """Take what the application sends."""
        if message["type"] == "http.response.start":
            self._status, self._head = message["status"], message.get("headers", [])
        elif message["type"] == "http.response.body" and len(self._body) <= self._limit:
            self._body += message.get("body", b"")

    @property
    def reply(self) -> BufferedResponse:
        """All of it; of one that is too large, the word that it is."""
        if len(self._body) > self._limit:
            return BufferedResponse(502, [(b"content-length", b"0")], b"")
        return BufferedResponse(self._status, self._head, bytes(self._body))


def streamed(found: remote.Remote) -> StreamResponse:
    """The reply to a request that is answered with a stream."""
    place = (found.after, found.joined, found.suppress_requests_through)
    return StreamResponse(
        found.stream, found.kind, found.request_id, found.head, *place, events=found.events
    )


def scope_of(parts: Parts, envelope: RequestEnvelope, ground: Scope) -> Scope:
    """The scope of a request that came from another worker, on the ground of this application."""
    state = dict(ground.get("state", {}))
    scope = {"asgi": {"version": "3.0"}, **ground, **envelope.scope, "state": state}
    scope["extensions"] = {EXTENSION: {"namespace": envelope.namespace}}
    scope.setdefault("raw_path", scope["path"].encode())
    load = parts.exchanges.settings.relay_scope
    if load is not None and envelope.outer is not None:
        load[1](scope, envelope.outer)
    return scope


def carrier(scope: Scope) -> dict[str, str]:
    """The trace that a request belongs to."""
    found = {name.decode(): headers.get(scope["headers"], name) for name in headers.TRACE}
    return {name: value for name, value in found.items() if value is not None}
