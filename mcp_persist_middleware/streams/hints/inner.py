"""One `subscriptions/listen` that the application has, for a client, for one that may come back, or
for the listens of other workers."""

import asyncio
import time
from typing import Protocol

from starlette.types import ASGIApp, Message, Scope

from mcp_persist_middleware import rarely
from mcp_persist_middleware.asgi.body import Body
from mcp_persist_middleware.protocol import headers, hints, sse
from mcp_persist_middleware.protocol.hints import Filter, Hint
from mcp_persist_middleware.streams import exit_guard
from mcp_persist_middleware.streams.unpack import hand_in
from mcp_persist_middleware.supervision import Tasks, retrieve

logger = rarely.logger(__name__)

# An application that was told that its client has left, and goes on, is cancelled after this.
_LAST_WORD_SECONDS = 30.0


class Sink(Protocol):
    """Whoever has what the application sends."""

    async def pass_on(self, message: Message) -> None:
        """An answer that is no event stream, as it is."""

    async def head(self, message: Message) -> None:
        """The head of an event stream."""

    async def frame(self, frame: sse.Frame) -> None:
        """The next event."""

    def comment(self, comment: bytes) -> None:
        """What the application says between two events."""


class Hearer(Protocol):
    """Whoever wants to know which hints the application gives."""

    def heard(self, hint: Hint) -> None:
        """It gave this one."""


class InnerListen:
    """Runs it in a task of its own.

    Args:
        asked: what it asks for.
        sink: its reader; None where nobody reads it.
    """

    def __init__(
        self,
        app: ASGIApp,
        scope: Scope,
        body: Body,
        asked: Filter,
        hearer: Hearer,
        max_event_bytes: int,
        sink: Sink | None = None,
    ) -> None:
        self.scope: Scope = hand_in(scope)
        self.asked = asked
        self.promised: Filter | None = None
        """What the application has promised; None before it has."""
        self.began = time.monotonic()
        self.sink = sink
        self._known = asyncio.Event()
        self._app = app
        self._messages = body.messages
        self._hearer = hearer
        self._parser = sse.FrameParser(max_event_bytes)
        self._passes = self._has_begun = False
        self._left = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self, tasks: Tasks) -> asyncio.Task[None]:
        """Begin."""
        self._task = tasks.begin(self._run())
        self._task.add_done_callback(retrieve)
        self._task.add_done_callback(lambda _: self._known.set())
        return self._task

    @property
    def is_over(self) -> bool:
        """Whether the application has ended it."""
        return self._task is None or self._task.done()

    async def known(self, seconds: float) -> None:
        """Wait, for so long at most, until it has promised something or has ended."""
        try:
            async with asyncio.timeout(seconds):
                await self._known.wait()
        except TimeoutError:
            return

    async def ended(self) -> None:
        """Wait until the application has ended it, and raise what it raised."""
        if self._task is not None:
            await asyncio.wait({self._task})
            if not self._task.cancelled():
                self._task.result()

    async def left(self) -> None:
        """The same once nobody reads it any more, whatever it raised."""
        if self._task is not None and self._left.is_set():
            await asyncio.wait({self._task})

    def leave(self) -> None:
        """Nobody reads it any more."""
        self.sink = None
        if not self._left.is_set():
            self._left.set()
            if self._task is not None:
                loop = asyncio.get_running_loop()
                timer = loop.call_later(_LAST_WORD_SECONDS, self._task.cancel)
                self._task.add_done_callback(lambda _: timer.cancel())

    async def _run(self) -> None:
        exit_guard.protect()
        try:
            await self._app(self.scope, self._receive, self._send)
        except Exception:
            if not self._has_begun:
                raise
            logger.exception("MPM-APP-01: The application raised when its answer had begun")

    async def _receive(self) -> Message:
        if self._messages:
            return self._messages.pop(0)
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            raw, self._has_begun = message.get("headers", []), True
            self._passes = not headers.is_event_stream(message["status"], raw)
            if self.sink is not None and not self._passes:
                await self.sink.head(message)
        if self._passes:
            if self.sink is not None:
                await self.sink.pass_on(message)
        elif message["type"] == "http.response.body":
            for frame in self._parser.feed(message.get("body", b"")):
                await self._frame(frame)
            comments = self._parser.comments()
            if comments and self.sink is not None:
                self.sink.comment(comments)

    async def _frame(self, frame: sse.Frame) -> None:
        if self.promised is None and (promised := hints.acknowledged(frame.data)) is not None:
            self.promised = Filter.of(promised)
        elif (hint := hints.hint_of(frame.data)) is not None:
            self._hearer.heard(hint)
        if self.sink is not None:
            await self.sink.frame(frame)
        # Whoever waits for that has it behind its reader.
        if self.promised is not None:
            self._known.set()
