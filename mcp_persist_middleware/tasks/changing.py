"""An answer of the application's that leaves with a word more in it."""

import json
from collections.abc import Callable
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mcp_persist_middleware import asgi
from mcp_persist_middleware.protocol import headers, sse

Change = Callable[[Any], bool]
"""Changes a message of the application's in place; whether it has."""


class Changing:
    """The application, one of whose answers is changed: JSON or an event stream. One that is too
    large, or of another kind, passes as it is, and so does every message that is not changed."""

    def __init__(self, app: ASGIApp, change: Change) -> None:
        self._app = app
        self._change = change

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, _Answer(self._change, send).send)


class _Answer:
    def __init__(self, change: Change, send: Send) -> None:
        self._change = change
        self._send = send
        self._head: Message | None = None
        self._is_stream = False
        self._body = bytearray()

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start" and _is_readable(message):
            self._head, raw = message, message.get("headers", [])
            self._is_stream = headers.is_event_stream(message["status"], raw)
        elif self._head is None:
            await self._send(message)
        else:
            self._body += message.get("body", b"")
            more = message.get("more_body", False)
            if not more or len(self._body) > asgi.MAX_ANSWER:
                await self._pass_on(more=more)

    async def _pass_on(self, *, more: bool) -> None:
        head, body = self._head, bytes(self._body)
        assert head is not None
        if not more:
            body = self._events(body) if self._is_stream else self._changed(body)
        self._head, self._body = None, bytearray()
        raw = headers.without(head.get("headers", []), b"content-length")
        if not (self._is_stream or more):
            raw.append((b"content-length", b"%d" % len(body)))
        await self._send({**head, "headers": raw})
        await self._send({"type": "http.response.body", "body": body, "more_body": more})

    def _events(self, body: bytes) -> bytes:
        frames = sse.FrameParser(len(body) + 4).feed(body)
        changed = [(frame, self._changed(frame.data)) for frame in frames]
        if all(frame.data == data for frame, data in changed):
            return body
        return b"".join(
            (frame.raw if frame.data == data else sse.event(data)) + sse.CRLF
            for frame, data in changed
        )

    def _changed(self, said: bytes) -> bytes:
        try:
            loaded = json.loads(said)
        except (ValueError, RecursionError):
            return said
        return dumped(loaded) if self._change(loaded) else said


def dumped(message: Any) -> bytes:
    """A message, as the SDKs write it."""
    text = json.dumps(message, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "surrogatepass")


def _is_readable(head: Message) -> bool:
    raw = head.get("headers", [])
    is_json = headers.media_type(raw) == b"application/json"
    is_plain = headers.get(raw, b"content-encoding") in (None, "identity")
    is_ok: bool = head["status"] == 200
    return is_ok and is_plain and (is_json or headers.is_event_stream(200, raw))
