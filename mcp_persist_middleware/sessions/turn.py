"""One request to a session that is held here, with every id as each side knows it."""

import json
import secrets
from typing import Self

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mcp_persist_middleware import asgi, telemetry
from mcp_persist_middleware.model import EventKind
from mcp_persist_middleware.protocol import generations, headers, jsonrpc, sse
from mcp_persist_middleware.sessions.change import Change
from mcp_persist_middleware.sessions.registry import Held, Registry

_ID = headers.SESSION_ID
_MAX_EVENT = 64 * 1024 * 1024
_MAX_REFUSAL = 64 * 1024
_MAX_SUBSCRIPTIONS = 1000


class Repeatable:
    """A request that can be made a second time, as long as no answer to it has begun."""

    def __init__(self, receive: Receive, limit: int) -> None:
        self._receive = receive
        self._limit = limit
        self._kept: list[Message] = []
        self._next = 0
        self._size = 0
        self.can_repeat = True
        """Everything that was read is still here."""

    async def receive(self) -> Message:
        """The next message, an old one after `again`."""
        if self._next < len(self._kept):
            self._next += 1
            return self._kept[self._next - 1]
        message = await self._receive()
        if message["type"] == "http.request" and self.can_repeat:
            self._size += len(message.get("body", b""))
            if self._size > self._limit:
                self.forget()
            else:
                self._kept.append(message)
                self._next += 1
        return message

    async def whole(self) -> bytes | None:
        """The body; None when it is too large to be kept, or broke off."""
        while not self._kept or self._kept[-1].get("more_body", False):
            message = await self.receive()
            if message["type"] != "http.request" or not self.can_repeat:
                return None
        return self.body

    @property
    def body(self) -> bytes:
        """What was read and is kept of the body."""
        return b"".join(message.get("body", b"") for message in self._kept)

    def again(self) -> Self:
        """From the beginning."""
        self._next = 0
        return self

    def forget(self) -> None:
        """It will not be repeated."""
        self._kept, self._next, self.can_repeat = [], 0, False


class Turn:
    """One run of the application for one request."""

    def __init__(
        self, app: ASGIApp, registry: Registry, held: Held, scope: Scope, request: Repeatable
    ) -> None:
        self._app = app
        self._registry = registry
        self._held = held
        self._scope = scope
        self._request = request
        self._generation = held.record.generation
        self._public = held.record.key.id
        self._has_body = False
        self._parser: sse.FrameParser | None = None
        self._refusal = asgi.Answer()
        self._change: Change | None = None
        self._begun: Message | None = None

    async def run(self, send: Send) -> asgi.Answer | None:
        """Run it. The application's answer when it does not know the session, or may not (400 says
        many things): the client has had nothing then."""
        scope = self._scope
        self._held.count(scope["method"])
        scope["extensions"][asgi.EXTENSION] |= {
            "session": self._public,
            "generation": self._generation,
            "revived": self._generation > generations.FIRST,
        }
        scope["headers"] = headers.replaced(scope["headers"], _ID, self._held.inner)
        receive = self._request.receive
        if self._generation > generations.FIRST and scope["method"] == "POST":
            # The body changes its length.
            scope["headers"] = headers.without(scope["headers"], b"content-length")
            receive = self._receive_changed

        async def answer(message: Message) -> None:
            changed = await self._outward(message)
            if changed is not None:
                await self._send_begun(send)
                await send(changed)

        await self._app(scope, receive, answer)
        await self._send_begun(send)
        return self._refusal if self._refusal.messages else None

    async def _send_begun(self, send: Send) -> None:
        begun, self._begun = self._begun, None
        if begun is not None:
            await send(begun)

    async def _receive_changed(self) -> Message:
        """The body in one message, with ids as the application's session knows them. It is read
        when the application asks for it: its authentication comes first."""
        body = None if self._has_body else await self._request.whole()
        self._has_body = True
        return await self._request.receive() if body is None else self._inward(body)

    def _inward(self, body: bytes) -> Message:
        changed = generations.inward(self._generation, body)
        if changed is None:
            # It speaks to a session that is gone; the application still judges the caller.
            telemetry.stale_replies.add(1)
            params = {"requestId": secrets.token_hex(8)}
            nothing = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params}
            changed = json.dumps(nothing).encode()
        return {"type": "http.request", "body": changed, "more_body": False}

    async def _outward(self, message: Message) -> Message | None:
        if message["type"] == "http.response.start":
            return await self._head(message)
        if self._refusal.messages:
            if sum(len(m.get("body", b"")) for m in self._refusal.messages) < _MAX_REFUSAL:
                self._refusal.messages.append(message)
            return None
        if self._change is not None:
            await self._learn(self._change, message.get("body", b""))
        if self._parser is None or message["type"] != "http.response.body":
            return message
        frames = self._parser.feed(message.get("body", b""))
        return {**message, "body": b"".join(self._frame(frame) for frame in frames)}

    async def _head(self, message: Message) -> Message | None:
        status, raw = message["status"], message.get("headers", [])
        if status == 404 or (status == 400 and self._held.accepts):
            self._refusal.messages.append(message)
            return None
        if 200 <= status < 300:
            self._held.accepts |= status == 202
            if self._scope["method"] == "DELETE":
                await self._registry.end(self._held)
            else:
                self._change = Change.of(self._request.body, raw)
        self._request.forget()
        if self._generation > generations.FIRST and headers.is_event_stream(status, raw):
            self._parser = sse.FrameParser(_MAX_EVENT)
        head = {**message, "headers": headers.replaced(raw, _ID, self._public)}
        if self._change is None or headers.is_event_stream(status, raw):
            return head
        # It leaves with what follows: who has it knows that the change is kept.
        self._begun = head
        return None

    def _frame(self, frame: sse.Frame) -> bytes:
        kind, _ = jsonrpc.scan(frame.data)
        is_cancel = kind is EventKind.MESSAGE and b"notifications/cancelled" in frame.data
        if kind is EventKind.REQUEST or is_cancel:
            return sse.event(generations.outward(self._generation, frame.data)) + sse.CRLF
        return frame.raw + sse.CRLF

    async def _learn(self, change: Change, chunk: bytes) -> None:
        """Keep what revival has to repeat, before the client knows that it was agreed to."""
        if (agreed := change.is_agreed(chunk)) is None:
            return
        self._change = None
        changed = change.of_record(self._held.record) if agreed else {}
        if len(changed.get("subscriptions", ())) <= _MAX_SUBSCRIPTIONS:
            await self._registry.note(self._held, **changed)
