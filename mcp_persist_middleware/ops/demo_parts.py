"""What the acts of the demo share: servers in processes of their own, and the official clients."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from mcp import Client, ClientSession
from mcp.client.streamable_http import streamable_http_client

from mcp_persist_middleware.supervision import begin_task

_START, _STOP = 20.0, 5.0
_CALL_TIMEOUT = 20.0

CallTool = Callable[..., Awaitable[Any]]


class DemoError(Exception):
    """A server of the demo did not start; the text is what it said."""


class DemoServer:
    """A server process on a port of its own; bare without a URL."""

    def __init__(self, url: str = "", retry_ms: int = 3000) -> None:
        self._arguments = [url, str(retry_ms)] if url else []
        self._process: asyncio.subprocess.Process | None = None
        self._log: asyncio.Task[bytes] | None = None
        self.port = 0

    async def start(self) -> None:
        """Start it and wait until it serves.

        Raises:
            DemoError: it ended instead.
        """
        self._process = process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "mcp_persist_middleware.ops.demo_server",
            *self._arguments,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdout
        assert process.stderr
        self._log = begin_task(process.stderr.read(), "demo-log")
        line = await asyncio.wait_for(process.stdout.readline(), _START)
        if not line:
            raise DemoError((await self._log).decode().strip())
        self.port = int(line)

    async def kill(self) -> None:
        """Take it away without a warning (SIGKILL)."""
        if self._process is not None:
            self._process.kill()
            await self._process.wait()

    async def stop(self) -> None:
        """Let it end in order; killed when that takes too long."""
        if self._process is None or self._process.stdin is None:
            return
        self._process.stdin.close()
        try:
            await asyncio.wait_for(self._process.wait(), _STOP)
        except TimeoutError:
            await self.kill()
        if self._log is not None:
            await self._log


@asynccontextmanager
async def running(server: DemoServer) -> AsyncIterator[DemoServer]:
    """The server, started; stopped at the end."""
    try:
        await server.start()
        yield server
    finally:
        await server.stop()


@asynccontextmanager
async def default_client(url: str) -> AsyncIterator[CallTool]:
    """`mcp.Client` as it is."""
    async with Client(url, read_timeout_seconds=_CALL_TIMEOUT) as client:
        yield client.call_tool


@asynccontextmanager
async def handshake_client(url: str, elicitation: Any = None) -> AsyncIterator[CallTool]:
    """A session of the handshake eras; `elicitation` answers the server's questions."""
    async with (
        streamable_http_client(url) as (read, write),
        ClientSession(read, write, _CALL_TIMEOUT, elicitation_callback=elicitation) as session,
    ):
        await session.initialize()
        yield session.call_tool
