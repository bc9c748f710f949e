"""An answer of the application's that leaves with a word more in it."""

import json
from collections.abc import Callable
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mcp_persist_middleware import asgi
from mcp_persist_middleware.protocol import headers, sse

MessageChange = Callable[[Any], bool]
"""Changes a message of the application's in place; whether it has."""


class Changing:
    """The application, one of whose answers is changed: JSON or an event stream. One that is too
    large, or of another kind, passes as it is, and so does every message that is not changed."""

    def __init__(self, app: ASGIApp, change: MessageChange) -> None:
        self._app = app
        self._change = change

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, _Answer(self._change, send).send)


class _Answer:
    def __init__(self, change: MessageChange, send: Send) -> None:
        self._change = change
        self._send = send
        self._head: Message | None = None
        """The head of a JSON answer, until its body is known."""
        self._parser: sse.FrameParser | None = None
        self._body = bytearray()

    async def send(self, message: Message) -> None:
        match message["type"]:
            case "http.response.start" if _is_readable(message):
                if headers.is_event_stream(message["status"], message.get("headers", [])):
                    self._parser = sse.FrameParser(asgi.MAX_ANSWER)
                    await self._send(message)
                else:
                    self._head = message
            case "http.response.body" if self._parser is not None:
                await self._send({**message, "body": self._events(self._parser, message)})
            case "http.response.body" if self._head is not None:
                self._body += message.get("body", b"")
                more = message.get("more_body", False)
                if not more or len(self._body) > asgi.MAX_ANSWER:
                    await self._pass_on(self._head, more=more)
            case _:
                await self._send(message)

    async def _pass_on(self, head: Message, *, more: bool) -> None:
        body, self._body, self._head = bytes(self._body), bytearray(), None
        if not more:
            body = self._changed(body)
            raw = headers.without(head.get("headers", []), b"content-length")
            head = {**head, "headers": [*raw, (b"content-length", b"%d" % len(body))]}
        await self._send(head)
        await self._send({"type": "http.response.body", "body": body, "more_body": more})

    def _events(self, parser: sse.FrameParser, message: Message) -> bytes:
        """The events that are complete with this part, at once: their stream may stay open."""
        told = [self._frame(frame) for frame in parser.feed(message.get("body", b""))]
        return b"".join([*told, parser.comments()])

    def _frame(self, frame: sse.Frame) -> bytes:
        changed = self._changed(frame.data)
        return (frame.raw if changed == frame.data else sse.event(changed)) + sse.CRLF

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
