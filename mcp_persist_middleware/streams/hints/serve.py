"""A client's `subscriptions/listen`: the application's stream, with keep-alives, and with what
other workers' applications have to say. It ends with its client: nobody comes back to it."""

import asyncio
import hashlib
import json
from collections import deque
from collections.abc import AsyncIterator
from typing import Protocol

from sse_starlette.sse import SendTimeoutError
from starlette.types import ASGIApp, Message, Scope, Send

from mcp_persist_middleware import asgi, rarely, telemetry
from mcp_persist_middleware.asgi.asked import Asked
from mcp_persist_middleware.asgi.client import Client
from mcp_persist_middleware.model import RequestId
from mcp_persist_middleware.protocol import hints, sse
from mcp_persist_middleware.protocol.hints import Filter, Hint
from mcp_persist_middleware.redaction import hushed_response
from mcp_persist_middleware.streams import event_source, expiry, identity
from mcp_persist_middleware.streams.clean_close import CleanClose
from mcp_persist_middleware.streams.context import Context
from mcp_persist_middleware.streams.hints.board import Board
from mcp_persist_middleware.streams.hints.inner import InnerListen
from mcp_persist_middleware.wakeups.local import Signal

logger = rarely.logger(__name__)

# So many events wait for a client before the application waits, and so many hints of others.
_AHEAD, _HINTS = 64, 1024
_LOOK = 15.0


class Outlet(Protocol):
    """A listen, to whoever has more to say on it."""

    def tell_of(self, name: str, method: bytes, params: bytes) -> None:
        """A notification; of those about one name the newest counts."""


class Push(Protocol):
    """What more is said on a listen, from its acknowledgement on."""

    def acknowledge(self, promised: bytes) -> bytes:
        """What the application acknowledges, and that."""

    def start(self, outlet: Outlet) -> None:
        """Say it from now on."""

    def stop(self) -> None:
        """Nobody listens any more."""


async def serve(
    context: Context,
    app: ASGIApp,
    asked: Asked,
    client: Client,
    send: Send,
    push: Push | None = None,
) -> None:
    """Serve it until its client leaves, the application ends it, or the worker stops."""
    scope, call = asked.scope, asked.request.call
    board, most = context.boards.of(asgi.place_of(scope)), context.settings.max_event_bytes
    wanted = hints.asked(asked.body.content)
    inner = InnerListen(app, scope, asked.body, wanted, board, most)
    request_id = call.request_id if call is not None else None
    listen = ListenStream(context, board, inner, request_id, send, push)
    inner.sink = listen
    running = inner.start(context.tasks)
    running.add_done_callback(lambda _: listen.wake())
    try:
        await listen.run(scope, client)
    finally:
        listen.leave()
        await inner.left()


class ListenStream:
    """One connection, from its head to its end."""

    # What the shutdown of a worker asks of a reader: it reads no stream of the log.
    stream, epoch, is_idle = b"", 0, True

    def __init__(
        self,
        context: Context,
        board: Board,
        inner: InnerListen,
        request_id: RequestId,
        send: Send,
        push: Push | None,
    ) -> None:
        self.key = ""
        self.wanted = Filter()
        self.joined_at = 0.0
        self._context = context
        self._board = board
        self._inner = inner
        self._request_id = request_id
        self._send = send
        self._push = push
        self._head: Message | None = None
        self._waiting: deque[bytes] = deque()
        self._hints: dict[Hint, None] = {}
        self._pushed: dict[str, bytes] = {}
        self._comment = b""
        self._news, self._room = Signal(), Signal()
        self._is_ending = self._has_joined = False

    # What the application sends.

    async def pass_on(self, message: Message) -> None:
        await self._send(message)

    async def head(self, message: Message) -> None:
        self._head = message
        self._news.notify()

    async def frame(self, frame: sse.Frame) -> None:
        """Another event of the application's. Its promise is the first."""
        while len(self._waiting) >= _AHEAD and self._inner.sink is self:
            await self._room.wait(_LOOK)
        promised, raw = self._inner.promised, frame.raw
        joins = promised is not None and not self._has_joined
        if joins and self._push is not None:
            raw = sse.event(self._push.acknowledge(frame.data))
        self._waiting.append(raw + sse.CRLF)
        if joins and promised is not None:
            self._join(promised)
        elif (hint := hints.hint_of(frame.data)) is not None:
            self._hints.pop(hint, None)
        self._news.notify()

    def comment(self, comment: bytes) -> None:
        self._comment = comment
        self._news.notify()

    # What others send.

    def _join(self, promised: Filter) -> None:
        """The application has let its client in."""
        context, scope = self._context, self._inner.scope
        self._has_joined = True
        if self._push is not None:
            self._push.start(self)
        if not context.settings.share_hints or not promised:
            return
        account = asgi.account_of(scope, identity.principal(context, scope))
        told = json.dumps([account, promised.params]).encode()
        self.key = hashlib.blake2b(told, key=context.log.secret, digest_size=16).hexdigest()
        self.wanted, self.joined_at = promised, context.log.now()
        self._board.join(self)

    def tell(self, hint: Hint) -> None:
        """A hint that another worker's application gave."""
        if len(self._hints) < _HINTS:
            self._hints[hint] = None
            self._news.notify()

    def tell_of(self, name: str, method: bytes, params: bytes) -> None:
        self._pushed[name] = hints.notification(method, params, self._request_id)
        self._news.notify()

    # What its client is sent.

    async def run(self, scope: Scope, client: Client) -> None:
        """Until it is over."""
        while self._head is None and not self._inner.is_over:
            if client.watch().done():
                return
            await self._changed(client)
        if self._head is None:
            # The application's own answer, or its own error.
            await self._inner.ended()
            return
        clean_close, settings = CleanClose(self._send), self._context.settings
        expiry.note(settings, scope, self._inner.scope)
        timer = expiry.timer(scope, self.stop)
        self._context.drain.join(self)
        telemetry.readers.add(1)
        try:
            principal = identity.principal(self._context, self._inner.scope)
            account = asgi.account_of(scope, principal)
            with hushed_response(), self._context.crowd.waiting(account, self.stop):
                head = self._head.get("headers", [])
                response = event_source.response(settings, self._bodies(), head)
                await response(scope, client.receive, clean_close.send)
        except asyncio.CancelledError:
            await clean_close.say(self._end())
            raise
        except (SendTimeoutError, TimeoutError):
            telemetry.clients_cut.add(1)
            logger.info("A client took nothing for %s s and was cut", settings.send_timeout)
        finally:
            if timer is not None:
                timer.cancel()
            self._context.drain.readers.discard(self)
            telemetry.readers.add(-1)

    async def _changed(self, client: Client) -> None:
        watcher = client.watch()
        watcher.add_done_callback(self._on_gone)
        try:
            await self._news.wait(_LOOK)
        finally:
            watcher.remove_done_callback(self._on_gone)

    def _on_gone(self, _: object) -> None:
        self._news.notify()

    async def _bodies(self) -> AsyncIterator[bytes]:
        while True:
            while self._waiting:
                body = b"".join(self._waiting)
                self._waiting.clear()
                self._room.notify()
                yield body
            told, self._hints = self._hints, {}
            if told:
                yield b"".join(self._told(hint) for hint in told)
            pushed, self._pushed = self._pushed, {}
            for message in pushed.values():
                yield sse.event(message) + sse.CRLF
            comment, self._comment = self._comment, b""
            if comment:
                yield comment
            if self._waiting:
                continue
            if self._is_ending:
                yield self._end()
                return
            if self._inner.is_over:
                return
            # What was told while something was sent has woken nobody.
            if not (self._hints or self._pushed or self._comment):
                await self._news.wait(_LOOK)

    def _end(self) -> bytes:
        return sse.event(hints.ended(self._request_id)) + sse.CRLF

    def _told(self, hint: Hint) -> bytes:
        return sse.event(hint.message(self._request_id)) + sse.CRLF

    # Its end.

    def wake(self) -> None:
        """The application has ended it."""
        self._news.notify()

    def stop(self) -> None:
        """The worker stops, and says so in the protocol's own way."""
        self._is_ending = True
        self._news.notify()

    def leave(self) -> None:
        """Its client is gone."""
        self._inner.sink = None
        if self._push is not None:
            self._push.stop()
        self._room.notify()
        if self.key:
            stops = self._is_ending or not self._context.holds_lease
            self._board.leave(self, self._inner, lingers=not stops)
        else:
            self._inner.leave()
