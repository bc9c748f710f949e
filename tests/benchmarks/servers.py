"""The server processes of a run: one for each contender, on one loop."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.contenders import Contender, Loop, Role
from tests.benchmarks.wire import BenchmarkError, Connection, Endpoint
from tests.support.stores import Fixture

_ROOT = Path(__file__).parents[2]
_START = 30.0


@dataclass(frozen=True, slots=True)
class Server:
    """A running server."""

    contender: Contender
    port: int
    pid: int

    @property
    def endpoint(self) -> Endpoint:
        """Where it speaks MCP; the competitor mounts its application."""
        return Endpoint(self.port, "/mcp/" if self.contender.role is Role.PEER else "/mcp")

    @property
    def ids(self) -> bool:
        """Whether its events carry ids."""
        return self.contender.role is not Role.BARE

    def cpu_us(self) -> float:
        """The processor time that the process has used, by the kernel's own clock of it; this
        tells more than the wall's where others run beside."""
        return time.clock_gettime(~self.pid << 3 | 2) * 1e6

    async def stats(self, *, settle: bool = False) -> dict[str, int]:
        """Its memory, its idle tool calls and its sockets, now; see `apps`."""
        connection = await Connection.open(self.port)
        try:
            answer = await connection.ask(self.get("/stats?settle" if settle else "/stats"))
            stats: dict[str, int] = json.loads(answer.text())
            return stats
        finally:
            connection.close()

    def get(self, path: str) -> bytes:
        """A request for a route that is not MCP's."""
        return b"GET %s HTTP/1.1\r\nhost: 127.0.0.1:%d\r\n\r\n" % (path.encode(), self.port)


class Servers:
    """Starts the servers of one loop.

    Args:
        competitor: an interpreter that has mcp-persist.
    """

    def __init__(
        self, directory: Path, fixture: Fixture, loop: Loop, competitor: str | None = None
    ) -> None:
        self.directory = directory
        self._fixture = fixture
        self._loop = loop
        self._competitor = competitor
        self._kept: dict[tuple[str, str], Server] = {}
        self._stack = AsyncExitStack()

    async def of(self, app: str, contenders: list[Contender]) -> list[Server]:
        """A server of `app` for each contender, the same for every measure of a run."""
        for contender in contenders:
            if (app, contender.name) not in self._kept:
                server = await self._stack.enter_async_context(self.one(app, contender))
                self._kept[app, contender.name] = server
        return [self._kept[app, contender.name] for contender in contenders]

    async def aclose(self) -> None:
        """End those that were kept."""
        await self._stack.aclose()

    @asynccontextmanager
    async def one(self, app: str, contender: Contender, **settings: str) -> AsyncIterator[Server]:
        """A server with a store of its own, for as long as the block."""
        environment = await self._new_store(contender) | _environ(settings)
        async with self._server(app, contender, environment) as server:
            yield server

    @asynccontextmanager
    async def pair(
        self, app: str, contender: Contender, **settings: str
    ) -> AsyncIterator[tuple[Server, Server]]:
        """Two servers on one store."""
        environment = await self._new_store(contender) | _environ(settings)
        async with (
            self._server(app, contender, environment) as one,
            self._server(app, contender, environment) as two,
        ):
            yield one, two

    async def _new_store(self, contender: Contender) -> dict[str, str]:
        name = f"{contender.name}-{os.urandom(4).hex()}".replace(" ", "-")
        return await asyncio.to_thread(contender.environment, self.directory / name, self._fixture)

    @asynccontextmanager
    async def _server(
        self, app: str, contender: Contender, environment: dict[str, str]
    ) -> AsyncIterator[Server]:
        listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
        is_peer = contender.role is Role.PEER
        python = self._competitor if is_peer and self._competitor else sys.executable
        arguments = (app, contender.role, self._loop, self._loop.parser, str(listener.fileno()))
        clean = {k: v for k, v in os.environ.items() if not k.startswith("MCP_PERSIST_")}
        process = subprocess.Popen(  # noqa: ASYNC220 (a fork takes less than a millisecond)
            [python, "-m", "tests.benchmarks.apps", *arguments],
            cwd=_ROOT,
            env=clean | environment,
            pass_fds=[listener.fileno()],
        )
        server = Server(contender, listener.getsockname()[1], process.pid)
        listener.close()
        try:
            await _ready(server)
            yield server
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()


def _environ(settings: dict[str, str]) -> dict[str, str]:
    return {f"MCP_PERSIST_{name.upper()}": value for name, value in settings.items()}


async def _ready(server: Server) -> None:
    """The listener exists before the process reads from it, so the first answer is the sign."""
    try:
        async with asyncio.timeout(_START):
            await server.stats()
    except (OSError, TimeoutError, BenchmarkError) as error:
        reason = f"the {server.contender.name} server did not start; see its output above"
        raise BenchmarkError(reason) from error
