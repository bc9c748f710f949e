"""Server processes: started, waited for, ended politely or killed, started again on their port."""

import asyncio
import os
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from pathlib import Path
from typing import ClassVar, Protocol

from tests.support.forks import Fork, Forks
from tests.support.stores import Store, free_port

ROOT = Path(__file__).parents[2]
_RUNNING = "Uvicorn running on"
_COMPLAINTS = (
    "mcp_persist_middleware",
    "Exception in ASGI",
    "garbage collector",
    "never awaited",
    "never retrieved",
    "task: <Task pending",
)
_VARYING = re.compile(r"0x[0-9a-f]+|Task-\d+")


class ServerError(Exception):
    """A server did not do what was asked of it; the text ends with its log."""


class ServerProcess:
    """A uvicorn server of `app` ("module:name", found from the checkout's root).

    A name that ends in "()" is a factory. The log (standard output and error) is collected in
    `log` over all starts. The port is chosen at the first start and kept.
    """

    forks: ClassVar[Forks | None] = None
    """Where they come from, if not from an interpreter that begins anew."""

    def __init__(
        self,
        app: str,
        log: Path,
        *,
        environ: Mapping[str, str] | None = None,
        python: str = sys.executable,
        arguments: Sequence[str] = (),
    ) -> None:
        self.port = 0
        self._app = app
        self._log = log
        self._environ = dict(environ or {})
        self._python = python
        self._arguments = list(arguments)
        self._process: asyncio.subprocess.Process | Fork | None = None
        self._seen = 0

    @property
    def url(self) -> str:
        """Its MCP endpoint."""
        return f"http://127.0.0.1:{self.port}/mcp"

    @property
    def pid(self) -> int:
        """The running process."""
        return self._running().pid

    @property
    def is_running(self) -> bool:
        """Whether it has not ended, by itself or otherwise."""
        return self._running().returncode is None

    @property
    def log(self) -> str:
        """Everything it has printed so far."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    @property
    def complaints(self) -> list[str]:
        """What is wrong in its log, counted: our own tracebacks, and whatever was left behind.

        What the SDKs say of a client that has left is not among it.
        """
        lines = [line for line in self.log.splitlines() if any(c in line for c in _COMPLAINTS)]
        kinds = Counter(_VARYING.sub("…", line)[:300] for line in lines)
        return [f"{count} x {kind}" for kind, count in kinds.most_common(20)]

    async def start(self, timeout: float = 20.0) -> None:
        """Start it and wait until it accepts connections.

        Raises:
            ServerError: it ended, or was not ready in time.
        """
        # One that no connection is given while the server is away.
        self.port = self.port or free_port()
        name = self._app.removesuffix("()")
        command = [name, "--host", "127.0.0.1"]
        command += ["--port", str(self.port), "--no-access-log", *self._arguments]
        command += ["--factory"] if name != self._app else []
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("MCP_PERSIST_")}
        # Some loggers break their lines at the width of a terminal.
        environ = inherited | {"PYTHONPATH": str(ROOT), "COLUMNS": "250"} | self._environ
        self._seen = len(self.log)
        if ServerProcess.forks is not None and self._python == sys.executable:
            self._process = await ServerProcess.forks.fork("uvicorn", command, environ, self._log)
        else:
            self._process = await self._spawn(command, environ)
        try:
            await self.wait_for_log(_RUNNING, timeout)
        except BaseException:
            await self.kill()
            raise

    async def _spawn(
        self, command: list[str], environ: Mapping[str, str]
    ) -> asyncio.subprocess.Process:
        with self._log.open("ab") as log:
            return await asyncio.create_subprocess_exec(
                *(self._python, "-m", "uvicorn", *command),
                cwd=ROOT,
                env=environ,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    async def wait_for_log(self, pattern: str, timeout: float = 10.0) -> None:
        """Wait until a line printed since the last start matches.

        Raises:
            ServerError: it ended, or did not print such a line in time.
        """
        process = self._running()
        try:
            async with asyncio.timeout(timeout):
                while not re.search(pattern, self.log[self._seen :]):
                    if process.returncode is not None:
                        raise ServerError(f"ended with {process.returncode}\n{self.log}")
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise ServerError(f"no {pattern!r} in {timeout} s\n{self.log}") from None

    async def exit_code(self, timeout: float = 20.0) -> int:
        """Wait until it ends by itself."""
        return await asyncio.wait_for(self._running().wait(), timeout)

    async def terminate(self, timeout: float = 20.0) -> int:
        """Ask it to shut down and wait for it; killed when that takes too long."""
        return await self._end(signal.SIGTERM, timeout)

    async def kill(self) -> None:
        """Take it away without a warning."""
        await self._end(signal.SIGKILL, 10.0)

    async def _end(self, sign: signal.Signals, timeout: float) -> int:
        process = self._running()
        if process.returncode is None:
            process.send_signal(sign)
        try:
            return await asyncio.wait_for(process.wait(), timeout)
        except TimeoutError:
            process.kill()
            await process.wait()
            raise ServerError(f"did not end within {timeout} s\n{self.log}") from None

    def _running(self) -> asyncio.subprocess.Process | Fork:
        if self._process is None:
            raise ServerError("not started yet")
        return self._process


@asynccontextmanager
async def running(server: ServerProcess) -> AsyncIterator[ServerProcess]:
    """The server, started; killed at the end."""
    await server.start()
    try:
        yield server
    finally:
        await server.kill()


class Lockable(Protocol):
    """A store that can keep its writers out."""

    def locked(self) -> AbstractContextManager[None]:
        """Nobody can write meanwhile."""


def stand_still(server: ServerProcess, store: Lockable) -> None:
    """Let a process stand still, but not in the middle of a transaction: it would hold the write
    lock of the file, which is a store that is away for all others."""
    threads = Path(f"/proc/{server.pid}/task")
    with store.locked():
        os.kill(server.pid, signal.SIGSTOP)
        while any(_state(thread) not in "TX" for thread in threads.iterdir()):
            time.sleep(0.001)


def _state(thread: Path) -> str:
    try:
        return (thread / "stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "X"


def mcp_server(
    directory: Path,
    *,
    name: str = "server",
    server: str = "sdk",
    mode: str = "stateful",
    persist: bool = True,
    python: str = sys.executable,
    settings: Mapping[str, object] | None = None,
    store: Store | None = None,
    log: Path | None = None,
    arguments: Sequence[str] = (),
) -> ServerProcess:
    """A server of `tests.support.servers`, not started; its files are kept in `directory`.

    Servers of one directory share its store and need a `name` each, unless another is given.
    """
    on = store or Store("sqlite", {"url": f"sqlite+aiosqlite:///{directory / 'events.db'}"})
    given = {**on.settings, **(settings or {})}
    url = given.pop("url")
    environ = {"TEST_SERVER": server, "TEST_MODE": mode}
    if persist:
        environ["TEST_PERSIST"] = str(url)
    environ |= {f"MCP_PERSIST_{name.upper()}": str(value) for name, value in given.items()}
    app = "tests.support.servers:app()"
    log = log or directory / f"{name}.log"
    return ServerProcess(app, log, environ=environ, python=python, arguments=arguments)
