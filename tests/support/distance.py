"""A server that is far away: a relay on loopback that holds back whatever it carries, both ways.

It runs in a process of its own, and its clock is finer than a millisecond: `select` takes
microseconds where `epoll` rounds up to milliseconds.
"""

import asyncio
import selectors
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

# What passing on takes by itself, each way (seconds).
_OWN = 0.0001


class _End(asyncio.Protocol):
    """One connection of a pair; what comes in leaves through the other a while later."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[bytes | None] = deque()
        self._transport: asyncio.Transport | None = None
        self.other: Self | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._later(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._later(None)

    def _later(self, data: bytes | None) -> None:
        self._waiting.append(data)
        self._loop.call_later(self._seconds, self._pass)

    def _pass(self) -> None:
        # Whichever timer rings first, what came first leaves first.
        data = self._waiting.popleft()
        if self.other is None or self.other._transport is None:
            return
        if data is None:
            self.other._transport.close()
        else:
            self.other._transport.write(data)


class _Near(_End):
    """The client's end: its coming makes the other."""

    def __init__(self, seconds: float, port: int) -> None:
        super().__init__(seconds)
        self._port = port

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        assert isinstance(transport, asyncio.Transport)
        transport.pause_reading()
        self._joining = self._loop.create_task(self._join())

    async def _join(self) -> None:
        assert self._transport is not None
        try:
            _, far = await self._loop.create_connection(
                lambda: _End(self._seconds), "127.0.0.1", self._port
            )
        except OSError:
            self._transport.abort()
            return
        self.other, far.other = far, self
        self._transport.resume_reading()


async def _serve(port: int, seconds: float) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Near(seconds, port), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


@contextmanager
def distant(port: int, milliseconds: float) -> Iterator[int]:
    """The port of a relay to a server on this machine that is so far away, there and back."""
    command = [sys.executable, "-m", __name__, str(port), str(milliseconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.kill()


def main() -> None:
    """`python -m tests.support.distance PORT MILLISECONDS`: print a port and serve it."""
    port, milliseconds = int(sys.argv[1]), float(sys.argv[2])
    with asyncio.Runner(
        loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())
    ) as runner:
        runner.run(_serve(port, max(0.0, milliseconds / 2000 - _OWN)))


if __name__ == "__main__":
    main()
