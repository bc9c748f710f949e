"""The server processes of a measure, one for each variant."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from tests.benchmarks.wire import BenchmarkError, Connection, Endpoint
from tests.support.stores import STORES, Fixture

_ROOT = Path(__file__).parents[2]
_START = 30.0


class Variant(StrEnum):
    """What stands in front of the application."""

    BARE = "bare"
    NORMAL = "normal"
    FULL = "full"
    PEER = "peer"


@dataclass(frozen=True, slots=True)
class Server:
    """A running server."""

    variant: Variant
    port: int
    pid: int

    @property
    def endpoint(self) -> Endpoint:
        """Where it speaks MCP; the competitor mounts its application."""
        return Endpoint(self.port, "/mcp/" if self.variant is Variant.PEER else "/mcp")

    @property
    def ids(self) -> bool:
        """Whether its events carry ids."""
        return self.variant is not Variant.BARE

    def cpu_seconds(self) -> float:
        """The processor time it has used; it tells more than the clock where others run beside."""
        tasks = Path(f"/proc/{self.pid}/task")
        if not tasks.exists():
            return 0.0
        used = [int((task / "schedstat").read_text().split()[0]) for task in tasks.iterdir()]
        return sum(used) / 1e9

    async def stats(self, *, settle: bool = False) -> dict[str, int]:
        """Its memory, its idle tool calls and its sockets, now; see `apps`."""
        connection = await Connection.open(self.port)
        try:
            path = b"/stats?settle" if settle else b"/stats"
            request = b"GET %s HTTP/1.1\r\nhost: 127.0.0.1:%d\r\n\r\n" % (path, self.port)
            answer = await connection.ask(request)
            stats: dict[str, int] = json.loads(answer.text())
            return stats
        finally:
            connection.close()


@dataclass(frozen=True, slots=True)
class Where:
    """Where a run keeps its files, the competitor's interpreter if there is one, and what our
    stores are: one of `STORES`, and the servers that it needs."""

    directory: Path
    peer: str | None = None
    store: str = "sqlite"
    fixture: Fixture = {}.__getitem__


@asynccontextmanager
async def servers(
    where: Where, app: str, variants: list[Variant], **settings: Any
) -> AsyncIterator[list[Server]]:
    """Servers of `app` in the given variants; the competitor joins when there is one."""
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(_server(where, app, variant, settings))
            for variant in variants
        ]


@asynccontextmanager
async def pair(
    where: Where, app: str, variant: Variant, **settings: Any
) -> AsyncIterator[tuple[Server, Server]]:
    """Two servers of `app` on one database."""
    shared = await _new_store(where, app, variant) | settings
    async with (
        _server(where, app, variant, shared) as one,
        _server(where, app, variant, shared) as two,
    ):
        yield one, two


async def _new_store(where: Where, app: str, variant: Variant) -> dict[str, Any]:
    """The settings that name a store of its own."""
    directory = where.directory / f"{app}-{variant}-{os.urandom(4).hex()}"
    directory.mkdir()
    made = await asyncio.to_thread(STORES[where.store], directory, where.fixture)
    return made.settings


@asynccontextmanager
async def _server(
    where: Where,
    app: str,
    variant: Variant,
    settings: dict[str, Any],
) -> AsyncIterator[Server]:
    if "url" not in settings:
        settings = await _new_store(where, app, variant) | settings
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    name = "competitor" if variant is Variant.PEER else app
    persisted = "ours" if variant in (Variant.NORMAL, Variant.FULL) else "as it is"
    python = where.peer if variant is Variant.PEER and where.peer else sys.executable
    process = subprocess.Popen(  # noqa: ASYNC220 (a fork takes less than a millisecond)
        [python, "-m", "tests.benchmarks.apps", name, persisted, str(listener.fileno())],
        cwd=_ROOT,
        env=_environment(where, variant, settings),
        pass_fds=[listener.fileno()],
    )
    server = Server(variant, listener.getsockname()[1], process.pid)
    listener.close()
    try:
        await _ready(server)
        yield server
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def _environment(where: Where, variant: Variant, settings: dict[str, Any]) -> dict[str, str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("MCP_PERSIST_")}
    clean["BENCHMARK_DATABASE"] = str(where.directory / f"peer-{os.urandom(4).hex()}.db")
    if variant in (Variant.NORMAL, Variant.FULL):
        clean["MCP_PERSIST_SYNCHRONOUS"] = str(variant)
        clean |= {f"MCP_PERSIST_{name.upper()}": str(value) for name, value in settings.items()}
    return clean


async def _ready(server: Server) -> None:
    """The listener exists before the process reads from it, so the first answer is the sign."""
    try:
        async with asyncio.timeout(_START):
            await server.stats()
    except (OSError, TimeoutError, BenchmarkError) as error:
        reason = f"the {server.variant} server did not start; see its output above"
        raise BenchmarkError(reason) from error
