"""A wire between a client and a server on loopback that can be held and cut, byte by byte."""

import asyncio
import contextlib
from types import TracebackType
from typing import Self


class Wire:
    """Forwards every connection to `target`. While it is held nothing passes in either direction,
    and nobody is told."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self.accepted = 0
        """How many connections there have been."""
        self._open, self._back = asyncio.Event(), asyncio.Event()
        self._open.set()
        self._back.set()
        self._links: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._listener.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._listener.close()
        self.cut()
        await asyncio.gather(*self._links, return_exceptions=True)

    def hold(self) -> None:
        """Let nothing pass."""
        self._open.clear()

    def deafen(self) -> None:
        """Let no answer pass."""
        self._back.clear()

    def release(self) -> None:
        """Let pass what waits, and what comes."""
        self._open.set()
        self._back.set()

    def cut(self) -> None:
        """End every connection that there is."""
        for link in self._links:
            link.cancel()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        task = asyncio.current_task()
        assert task is not None
        self._links.add(task)
        there: asyncio.StreamWriter | None = None
        try:
            await self._open.wait()
            back, there = await asyncio.open_connection("127.0.0.1", self.target)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pass(reader, there, self._open))
                group.create_task(self._pass(back, writer, self._back))
        except (OSError, asyncio.CancelledError, ExceptionGroup):
            pass
        finally:
            for end in (writer, there):
                if end is not None:
                    end.transport.abort()
            self._links.discard(task)

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: asyncio.Event
    ) -> None:
        while data := await reader.read(65536):
            await self._open.wait()
            await way.wait()
            writer.write(data)
            await writer.drain()
        with contextlib.suppress(OSError):
            writer.close()
        raise ConnectionResetError
