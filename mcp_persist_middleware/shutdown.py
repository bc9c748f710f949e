"""Hears that the server is about to stop, before it says so in the lifespan protocol.

The lifespan's shutdown comes when the connections are closed, and ours wait for the shutdown.
"""

import asyncio
import contextlib
import signal
import threading
from collections.abc import AsyncIterator, Callable
from types import FrameType
from typing import Any

from sse_starlette import EventSourceResponse
from starlette.types import Message

from mcp_persist_middleware.supervision import Supervisor, end

# A ping that nobody reads; older releases of sse-starlette cannot be told to send none.
_SELDOM = 86_400
# It takes a round of the event loop; anything else (seconds) is not waited for.
_BEGIN_SECONDS = 1.0

_Handler = Callable[[int, FrameType | None], Any]


class ShutdownWatch:
    """Calls once, on the event loop that it was started on, when the server begins to stop.

    Two ways, whichever is first. Under uvicorn sse-starlette finds it out: a response of its own
    that nobody reads ends then, as every other one does. Where the server has installed a handler
    for SIGTERM that sse-starlette does not know (hypercorn, granian), that handler is chained: it
    is called as before, and put back at the end. A process without a handler (hypercorn's worker
    processes), a server in another thread or one that is stopped by its own means is heard of by
    neither: there the lifespan protocol, or the end of the connection, is the first word.

    From the first word on the handlers of SIGTERM and SIGINT are chained whosever they are, for the
    second word: somebody does not want to wait.

    Args:
        call: the server begins to stop.
        hurry: it was told to a second time.
    """

    def __init__(
        self,
        call: Callable[[], None],
        hurry: Callable[[], None] = lambda: None,
        tasks: Supervisor | None = None,
    ) -> None:
        self._call = call
        self._hurry = hurry
        self._loop = asyncio.get_running_loop()
        self._tasks = tasks or Supervisor()
        self._began = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._before: _Handler | None = None
        self._before_second: dict[signal.Signals, _Handler] = {}
        # One object each, to be known again: a bound method is a new one each time.
        self._handler, self._second_handler = self._handle, self._handle_second

    async def open(self) -> None:
        """Begin to listen. When this returns all that listens has taken its first step: the event
        loop may end at any time, and a coroutine that never began complains of it."""
        self.start()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_BEGIN_SECONDS):
                await self._began.wait()

    def start(self) -> None:
        """Begin to listen, soon."""
        self._task = self._tasks.keep(self._listen, "mcp-persist-shutdown")
        if threading.current_thread() is not threading.main_thread():
            return
        handler = signal.getsignal(signal.SIGTERM)
        is_known = hasattr(getattr(handler, "__self__", None), "should_exit")
        if callable(handler) and not is_known:
            self._before = handler
            signal.signal(signal.SIGTERM, self._handler)

    async def aclose(self) -> None:
        """Stop listening; the handler from before is back, unless somebody has chained ours."""
        self._call = self._hurry = _nothing
        for number, before in self._before_second.items():
            if signal.getsignal(number) is self._second_handler:
                signal.signal(number, before)
        if self._before is not None and signal.getsignal(signal.SIGTERM) is self._handler:
            signal.signal(signal.SIGTERM, self._before)
        await end(self._task)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._tell)
        if self._before is not None:
            self._before(number, frame)

    def _tell(self) -> None:
        call, self._call = self._call, _nothing
        call()
        if call is _nothing or threading.current_thread() is not threading.main_thread():
            return
        for number in (signal.SIGTERM, signal.SIGINT):
            handler = signal.getsignal(number)
            if callable(handler):
                self._before_second[number] = handler
                signal.signal(number, self._second_handler)
                # uvicorn's, which may have heard both words before this one was.
                if getattr(getattr(handler, "__self__", None), "force_exit", False):
                    self._hurry()

    def _handle_second(self, number: int, frame: FrameType | None) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._hurry)
        self._before_second[signal.Signals(number)](number, frame)

    async def _listen(self) -> None:
        await EventSourceResponse(self._silence(), ping=_SELDOM)(
            {"type": "http", "method": "GET", "headers": []}, _receive, _send
        )
        self._tell()

    async def _silence(self) -> AsyncIterator[bytes]:
        self._began.set()
        await asyncio.Event().wait()
        yield b""


async def _receive() -> Message:
    await asyncio.Event().wait()
    return {"type": "http.disconnect"}


async def _send(_: Message) -> None:
    """To nobody."""


def _nothing() -> None:
    """Do nothing."""
