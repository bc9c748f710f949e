"""Servers of any kind as processes: started on a port that they keep, killed, started again."""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from tests.support.processes import ROOT
from tests.support.stores import free_port

_START = 30.0


class ProcessError(Exception):
    """A process did not do what was asked of it."""


class Command:
    """A command that serves on a port; `{port}` stands for it in the arguments and in `environ`."""

    def __init__(
        self, arguments: Sequence[str], log: Path, environ: Mapping[str, str] | None = None
    ) -> None:
        self.port = free_port()
        self.log = log
        self._arguments = [part.format(port=self.port) for part in arguments]
        given = {name: value.format(port=self.port) for name, value in (environ or {}).items()}
        kept = {k: v for k, v in os.environ.items() if not k.startswith("MCP_PERSIST_")}
        self._environ = kept | {"PYTHONPATH": str(ROOT)} | given
        self._process: asyncio.subprocess.Process | None = None
        self.descendants: set[int] = set()
        """Every process that was seen to be a child of it."""

    @property
    def url(self) -> str:
        """Its MCP endpoint."""
        return f"http://127.0.0.1:{self.port}/mcp"

    @property
    def pid(self) -> int:
        """The running process."""
        assert self._process is not None
        return self._process.pid

    async def start(self) -> None:
        """Start it and wait until it accepts connections.

        Raises:
            ProcessError: it ended, or was not ready in time.
        """
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._arguments, cwd=ROOT, env=self._environ, stdout=log, stderr=log
            )
        until = time.monotonic() + _START
        while not await _accepts(self.port):
            if self._process.returncode is not None or time.monotonic() > until:
                text = self.log.read_text(errors="replace")[-2000:]
                raise ProcessError(f"{self._arguments[0]} does not serve\n{text}")
            await asyncio.sleep(0.02)

    async def kill(self) -> None:
        """Take it away without a warning, and remember its children."""
        assert self._process is not None
        self.descendants |= set(children(self._process.pid))
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()

    def cpu_seconds(self) -> float:
        """The processor time that it has used."""
        return time.clock_gettime(~self.pid << 3 | 2)

    def resident(self) -> int:
        """Its memory, in bytes."""
        return resident(self.pid)


def resident(pid: int) -> int:
    """The memory of a process, in bytes."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def children(pid: int) -> list[int]:
    """The processes below one, as the kernel has them now."""
    found: list[int] = []
    for listed in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in listed.read_text().split():
            found += [int(child), *children(int(child))]
    return found


def alive(pids: set[int]) -> set[int]:
    """Which of these processes are still there."""
    return {pid for pid in pids if Path(f"/proc/{pid}").exists()}


async def _accepts(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


@asynccontextmanager
async def serving(*commands: Command) -> AsyncIterator[None]:
    """The commands, started in their order and killed at the end."""
    started: list[Command] = []
    try:
        for command in commands:
            started.append(command)
            await command.start()
        yield
    finally:
        for command in reversed(started):
            await command.kill()


def proxy(
    directory: Path,
    *upstreams: str,
    more: Sequence[str] = (),
    settings: Mapping[str, str] | None = None,
) -> Command:
    """The proxy as users start it, in front of these endpoints."""
    arguments = [sys.executable, "-m", "mcp_persist_middleware", "proxy", "--port", "{port}"]
    for upstream in upstreams:
        arguments += ["--upstream", upstream]
    arguments += ["--url", str(directory / "events.db"), "--log-level", "warning", *more]
    environ = {f"MCP_PERSIST_{name}": value for name, value in (settings or {}).items()}
    return Command(arguments, directory / "proxy.log", environ)


def by_hand(directory: Path) -> Command:
    """The server of `tests.proxied.apps`."""
    arguments = ["-m", "uvicorn", "--factory", "tests.proxied.apps:app", "--no-access-log"]
    more = ["--port", "{port}", "--log-level", "warning", "--timeout-keep-alive", "600"]
    return Command([sys.executable, *arguments, *more], directory / "upstream.log")
