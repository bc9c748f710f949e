"""A child that speaks MCP: requests go in, and what comes out finds the one it belongs to."""

import asyncio
import contextlib
import json
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from mcp_persist_middleware import rarely
from mcp_persist_middleware.ops.proxy.stdio.lines import TooLongError, line
from mcp_persist_middleware.ops.proxy.stdio.options import StdioOptions
from mcp_persist_middleware.ops.proxy.stdio.process import Process
from mcp_persist_middleware.ops.proxy.stdio.routes import Routes, Stream
from mcp_persist_middleware.protocol import jsonrpc
from mcp_persist_middleware.supervision import Supervisor

logger = rarely.logger(__name__)

_LAST_WORDS = 1.0
_METHOD_NOT_FOUND = -32601


class BusyError(Exception):
    """There is no room for one more."""


class GoneError(Exception):
    """The child has ended, or takes nothing any more."""


class Outbox:
    """What belongs to a session and to no request, until somebody asks for it. Bounded: the oldest
    goes first, as nobody may ever ask."""

    def __init__(self, most: int = 1000, most_bytes: int = 4 * 1024 * 1024) -> None:
        self._most, self._most_bytes = most, most_bytes
        self._waiting: deque[str] = deque()
        self._size = 0
        self._change = asyncio.Event()
        self.is_taken = False
        """A client has the session's stream open."""
        self._is_over = False

    def put(self, text: str) -> list[str]:
        """Keep it; what had to go for it."""
        self._waiting.append(text)
        self._size += len(text)
        gone = []
        while len(self._waiting) > self._most or (
            self._size > self._most_bytes and len(self._waiting) > 1
        ):
            gone.append(self._waiting.popleft())
            self._size -= len(gone[-1])
        self._change.set()
        return gone

    async def get(self) -> str | None:
        """The next message; None when no more will come."""
        while not self._waiting:
            if self._is_over:
                return None
            self._change.clear()
            await self._change.wait()
        text = self._waiting.popleft()
        self._size -= len(text)
        return text

    def close(self) -> None:
        """No more will come."""
        self._is_over = True
        self._change.set()


class Child:
    """One process that serves one session, or the requests of one caller."""

    def __init__(
        self, process: Process, options: StdioOptions, tasks: Supervisor, *, is_session: bool
    ) -> None:
        self.process = process
        self.outbox = Outbox()
        self.has_answered = False
        """It has said something that is a message."""
        self.on_first_message: Callable[[], None] = lambda: None
        self.is_ended_by_us = False
        self.is_over = False
        self.used_at = asyncio.get_running_loop().time()
        """When a message passed last."""
        self._options = options
        self._is_session = is_session
        self._routes = Routes(is_session=is_session)
        self._tasks = tasks
        self._reading = tasks.spawn(self._read(), "mcp-persist-stdio-read")

    @property
    def is_idle(self) -> bool:
        """Nobody waits for an answer of its. Who listens does not count: the middleware does so for
        clients that have left, and one that is there comes back to a new process."""
        return not self._routes.is_awaited()

    async def ask(self, text: str, message: Mapping[str, Any]) -> Stream:
        """Hand it a request; its messages are in the stream.

        Raises:
            BusyError: too many are under way.
            GoneError: it has ended.
        """
        if self.is_over:
            raise GoneError
        if len(self._routes) >= self._options.max_requests:
            raise BusyError
        stream, told = self._routes.add(text, message)
        try:
            await self._write(told)
        except BaseException:
            # Nobody is going to read what comes for it, and all others would wait behind that.
            stream.leave()
            raise
        return stream

    async def tell(self, text: str, message: Mapping[str, Any]) -> None:
        """Hand it a notification, or the answer to a request of its own.

        Raises:
            GoneError: it has ended.
        """
        if message.get("method") != "notifications/cancelled":
            await self._write(text)
        elif (cancelled := self._routes.cancelled(text, message)) is not None:
            stream, told = cancelled
            await self._write(told)
            self._tasks.spawn(self._give_up(stream), "mcp-persist-stdio-cancelled")

    async def cancel(self, stream: Stream, reason: str) -> None:
        """Nobody wants the answer any more."""
        stream.leave()
        if stream.is_done or self.is_over:
            return
        self._routes.remove(stream)
        params = {"requestId": stream.number, "reason": reason}
        with contextlib.suppress(GoneError):
            await self._write(
                json.dumps(
                    {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params}
                )
            )

    def leave(self) -> None:
        """Nothing more is asked of it."""
        self.is_ended_by_us = self.is_ended_by_us or not self.is_over
        self.is_over = True

    async def _give_up(self, stream: Stream) -> None:
        """Most servers do not answer what was cancelled: its stream ends all the same."""
        await asyncio.sleep(self._options.cancel_timeout)
        if self._routes.is_running(stream):
            self._routes.remove(stream)
            error = jsonrpc.error(stream.id, "Request cancelled", {}, jsonrpc.INTERRUPTED)
            await stream.put(error.decode(), is_last=True)

    async def stop(self) -> None:
        """End it: what waits for an answer gets an error."""
        self.leave()
        await self.process.stop()
        await asyncio.wait({self._reading}, timeout=_LAST_WORDS)
        self._reading.cancel()
        await self._end_all("was stopped")

    async def ended(self) -> None:
        """Wait until it says nothing more."""
        await asyncio.wait({self._reading})

    async def _write(self, text: str) -> None:
        self.used_at = asyncio.get_running_loop().time()
        try:
            await self.process.write(line(text))
        except TimeoutError:
            logger.warning(
                "MPM-PROXY-02: A child has read nothing for %g s and is ended",
                self._options.write_timeout,
            )
            self._reading.cancel()
            raise GoneError from None
        except (ConnectionError, RuntimeError):
            raise GoneError from None

    async def _read(self) -> None:
        why = "ended"
        try:
            async for raw in self.process.lines():
                await self._take(raw)
        except TooLongError:
            why = f"wrote a line of more than {self._options.max_line_bytes} bytes"
            logger.warning("MPM-PROXY-03: A child %s, and is ended", why)
        except asyncio.CancelledError:
            why = "was ended"
        finally:
            self.is_over = True
            await self._finish(why)

    async def _finish(self, why: str) -> None:
        if await self.process.ended(_LAST_WORDS):
            why += f" {self.process.ending}"
        await self._end_all(why)
        await self.process.stop()

    async def _end_all(self, why: str) -> None:
        self.outbox.close()
        for stream in self._routes.take_all():
            text = f"Interrupted: the server's process {why} before it had answered"
            error = jsonrpc.error(stream.id, text, {"resumable": False}, jsonrpc.INTERRUPTED)
            # One that is not read must not keep the others waiting.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LAST_WORDS):
                    await stream.put(error.decode(), is_last=True)

    async def _take(self, raw: bytes) -> None:
        try:
            text = raw.decode()
            message = json.loads(text)
        except (ValueError, RecursionError):
            message = None
        if not isinstance(message, dict) or not ("method" in message or "id" in message):
            self.process.garbage(raw)
            return
        if not self.has_answered:
            self.has_answered = True
            self.on_first_message()
        self.used_at = asyncio.get_running_loop().time()
        stream, is_nobodys = self._routes.of(message)
        if is_nobodys:
            await self._lose(message, "This client answers no requests")
        else:
            await self._hand_on(stream, text, message)

    async def _hand_on(self, stream: Stream | None, text: str, message: Mapping[str, Any]) -> None:
        if stream is not None:
            text = stream.restored(text, message)
            is_last = "method" not in message
            if is_last:
                self._routes.remove(stream)
            if is_last or not stream.is_done:
                await stream.put(text, is_last=is_last)
                return
        if self._is_session:
            for lost in self.outbox.put(text):
                logger.warning(
                    "MPM-PROXY-04: A message of no request was dropped: nobody has asked for it"
                )
                await self._lose(json.loads(lost), "No client listens")

    async def _lose(self, message: Mapping[str, Any], why: str) -> None:
        """Who waits for its answer is told so."""
        if "method" in message and "id" in message:
            error = {"code": _METHOD_NOT_FOUND, "message": why}
            refused = json.dumps({"jsonrpc": "2.0", "id": message["id"], "error": error})
            with contextlib.suppress(GoneError):
                await self._write(refused)
