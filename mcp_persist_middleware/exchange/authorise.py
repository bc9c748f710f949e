"""The application is asked before anything is replayed: its Host, Origin and token checks, its
rate limits and its outages all apply to a resume as to any other request."""

import asyncio
import contextlib
import secrets
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Scope, Send

from mcp_persist_middleware.exchange.context import Context
from mcp_persist_middleware.exchange.identity import principal
from mcp_persist_middleware.model import StreamKind
from mcp_persist_middleware.protocol import headers

_TIMEOUT, _AFTERWARDS = 30.0, 1.0
_MAX_BODY = 64 * 1024
_REFUSALS = frozenset({401, 403, 421, 429})


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the application says about the caller."""

    messages: tuple[Message, ...]
    """Its answer, to be passed on when it refuses."""
    status: int
    principal: str

    @property
    def refused(self) -> bool:
        """Whether the answer itself is the end of the matter. 404, 405 and 409 are not: the
        application may have restarted, or may not know what we keep."""
        return self.status in _REFUSALS or self.status >= 500


async def ask(context: Context, app: ASGIApp, scope: Scope, kind: StreamKind) -> Verdict:
    """Ask with the method that made the stream, and with the caller's own headers.

    A POST carries the cancellation of a request that does not exist, which changes nothing. A
    GET alone proves nothing: stateless servers answer 405 before any authentication.
    """
    probe = _scope(scope, kind)
    body = b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"%s"}}' % (
        b"probe-" + secrets.token_hex(8).encode()
    )
    answer = _Answer(body if kind is StreamKind.POST else b"")
    running: asyncio.Future[None] = asyncio.ensure_future(app(probe, answer.receive, answer.send))
    running.add_done_callback(lambda _: answer.known.set())
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_TIMEOUT):
                await answer.known.wait()
        # What an application does behind its answer to a notification is not cut short.
        await asyncio.wait({running}, timeout=_AFTERWARDS)
        if running.done():
            running.result()
    finally:
        running.cancel()
    if not answer.messages:
        status = 500 if running.done() else 504
        return Verdict(_plain(status), status, "")
    status = answer.messages[0]["status"]
    return Verdict(tuple(answer.messages), status, principal(context, probe))


def _scope(scope: Scope, kind: StreamKind) -> Scope:
    dropped = (headers.LAST_EVENT_ID, b"content-length", b"content-type", b"transfer-encoding")
    raw = headers.without(scope["headers"], *dropped, b"accept", b"accept-encoding")
    raw.append((b"accept", b"application/json, text/event-stream"))
    if kind is StreamKind.POST:
        raw.append((b"content-type", b"application/json"))
    method = "POST" if kind is StreamKind.POST else "GET"
    return {**scope, "method": method, "headers": raw}


class _Answer:
    """Receives the application's answer to a probe; a stream is left as soon as it begins."""

    def __init__(self, body: bytes) -> None:
        self._request: Message | None = {"type": "http.request", "body": body, "more_body": False}
        self.known = asyncio.Event()
        """All that has to be known is known; the application may hear that we have left."""
        self._size = 0
        self.messages: list[Message] = []

    async def receive(self) -> Message:
        if self._request is not None:
            message, self._request = self._request, None
            return message
        await self.known.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        match message["type"]:
            case "http.response.start":
                self.messages.append(message)
                if headers.is_event_stream(message["status"], message["headers"]):
                    self.known.set()
            case "http.response.body":
                self._size += len(message.get("body", b""))
                if self._size <= _MAX_BODY or not message.get("more_body", False):
                    self.messages.append(message)
                if not message.get("more_body", False):
                    self.known.set()


def _plain(status: int) -> tuple[Message, ...]:
    return (
        {"type": "http.response.start", "status": status, "headers": [(b"content-length", b"0")]},
        {"type": "http.response.body", "body": b""},
    )


async def pass_on(verdict: Verdict, send: Send) -> None:
    """Give the application's own answer to the client, unchanged."""
    for message in verdict.messages:
        await send(message)
