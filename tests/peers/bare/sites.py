"""Both sides, brought into one of the states, as processes of uvicorn, hypercorn or granian."""

import asyncio
import contextlib
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from sqlalchemy.engine import make_url

from tests.peers.bare.differ import frames
from tests.peers.bare.requests import Opening, Request
from tests.peers.bare.wire import exchange, head
from tests.support.processes import ROOT
from tests.support.stores import Store, free_port

_APP = "tests.peers.bare.apps:app"
_COMMANDS = {
    "uvicorn": ("uvicorn", "--factory", _APP, "--port", "{port}", "--log-level", "warning"),
    "hypercorn": ("hypercorn", f"{_APP}()", "--workers", "0", "--bind", "127.0.0.1:{port}"),
    "granian": (
        *("granian", "--interface", "asgi", "--factory", _APP, "--port", "{port}"),
        *("--log-level", "warning"),
    ),
}
HTTP = tuple(_COMMANDS)
_READY = 40.0
STORE_TIMEOUT = 0.6
_SETTINGS = {"lease_seconds": "4", "store_timeout": "1.5"}


class Server(Protocol):
    """One of ours or a bare one."""

    port: int

    async def start(self) -> None:
        """It accepts connections afterwards; the first start chooses the port."""

    async def kill(self) -> None:
        """It is gone, without a warning where that can be."""


@dataclass(eq=False)
class Process:
    """A server process."""

    http: str
    server: str
    python: str
    log: Path
    environ: Mapping[str, str] = field(default_factory=dict)
    port: int = 0
    _process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        self.port = self.port or free_port()
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("MCP_PERSIST_")}
        given = {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "0", "BARE_SERVER": self.server}
        command = [part.format(port=self.port) for part in _COMMANDS[self.http]]
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(self.python, "-m", *command),
                cwd=ROOT,
                env=inherited | given | dict(self.environ),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        async with asyncio.timeout(_READY):
            while not await self._accepts():
                if self._process.returncode is not None:
                    raise SystemExit(f"a server ended at once: {self.log.read_text()[-2000:]}")
                await asyncio.sleep(0.05)

    async def _accepts(self) -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        writer.transport.abort()
        return True

    async def kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                # granian has worker processes; they are of its session.
                os.killpg(self._process.pid, signal.SIGKILL)
            await self._process.wait()
            async with asyncio.timeout(_READY):
                # They accept until they are gone as well.
                while await self._accepts():
                    await asyncio.sleep(0.01)


Pair = tuple[list[list[str]], list[list[str]]]
"""For each case the ids of its sessions, of the bare server and of ours."""


@dataclass(eq=False)
class Site:
    """The servers of one state."""

    state: str
    bare: Server
    ours: Server
    other: Server
    """Where ours is asked: another worker, or the same."""
    store: Store | None = None
    _held: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def anew(self) -> None:
        """All servers start again, on an empty store: a server that has been asked knows more."""
        await self.kill()
        if self.store is not None and self.state != "shut":
            file = Path(make_url(self.store.url).database or "")
            for left in file.parent.glob(f"{file.name}*"):
                left.unlink()
        await self.start()

    async def start(self) -> None:
        """All servers; two workers have met afterwards. One that was alone looks for others now
        and then (0.4 s), and until then nobody serves what is relayed to it."""
        await asyncio.gather(*(each.start() for each in self._servers))
        if self.other is not self.ours:
            known = await opened(self.ours.port, [Opening()])
            await exchange(self.other.port, Request().send(self.other.port, known))

    async def kill(self) -> None:
        """All servers."""
        await asyncio.gather(*(each.kill() for each in self._servers))

    @property
    def _servers(self) -> list[Server]:
        return list(dict.fromkeys((self.bare, self.ours, self.other)))

    @asynccontextmanager
    async def ready(self, openings: Sequence[Sequence[Opening]]) -> AsyncIterator[Pair]:
        """Sessions for some cases on both sides, with ours in the state meanwhile."""
        known = [await opened(self.ours.port, each) for each in openings]
        async with AsyncExitStack() as held:
            match self.state:
                case "back":
                    await asyncio.gather(self.ours.kill(), self.bare.kill())
                    await asyncio.gather(self.ours.start(), self.bare.start())
                case "degraded":
                    assert self.store is not None
                    held.enter_context(self.store.locked())
                    await asyncio.sleep(STORE_TIMEOUT / 2)
            yield [await opened(self.bare.port, each) for each in openings], known
        if self.state == "degraded":
            await self.ours.kill()
            await self.ours.start()


async def opened(port: int, openings: Sequence[Opening]) -> list[str]:
    """New sessions' ids."""
    return [await _open(port, opening) for opening in openings]


async def _open(port: int, opening: Opening) -> str:
    asked = Request(does="initialize", session="none", version=(), headers=opening.headers)
    given = asked.send(port, [])
    pieces = tuple(piece.replace(b"2025-11-25", opening.version.encode()) for piece in given.pieces)
    # The versions are of one length, so the announced one holds.
    given = type(given)(pieces, method="POST", listen=2.0)
    answer = await exchange(port, given)
    session = answer.header("mcp-session-id")
    if answer.status != 200 or not session:
        # All that follows would be refused alike, and nothing compared.
        raise RuntimeError(f"no session: {answer}")
    assert not answer.is_stream or frames(answer.body)
    done = Request(
        does="notifications/initialized", id="", headers=opening.headers, version=(opening.version,)
    )
    await exchange(port, done.send(port, [session]))
    return session


def lives(port: int) -> bytes:
    """A request that shows whether a connection lives on."""
    lines = [("host", f"127.0.0.1:{port}"), ("accept", "*/*")]
    return head("GET", "/health", lines)


@asynccontextmanager
async def site(
    state: str, server: str, http: str, python: str, *, mode: str = "stateful"
) -> AsyncIterator[Site]:
    """Both sides, started, in a directory of their own."""
    with tempfile.TemporaryDirectory(prefix="bare-") as name:
        directory = Path(name)
        made = _made(state, server, http, python, directory, mode)
        try:
            await made.start()
            yield made
        finally:
            await made.kill()
            _keep(directory, f"{state}-{server}-{http}")


def _keep(directory: Path, name: str) -> None:
    """The logs stay where the environment says."""
    if kept := os.environ.get("BARE_LOGS"):
        for log in directory.glob("*.log"):
            (Path(kept) / f"{name}-{log.name}").write_bytes(log.read_bytes())


def _made(state: str, server: str, http: str, python: str, directory: Path, mode: str) -> Site:
    url = f"sqlite+aiosqlite:///{directory / 'events.db'}"
    settings = dict(_SETTINGS)
    if state == "degraded":
        settings["store_timeout"] = str(STORE_TIMEOUT)
    if state == "shut":
        # No setting is wrong, but nobody can open it, and nobody is told so at the start.
        (directory / "broken.db").write_bytes(b"no database" * 1000)
        url = f"sqlite+aiosqlite:///{directory / 'broken.db'}"
    environ = {f"MCP_PERSIST_{name.upper()}": value for name, value in settings.items()}
    environ["BARE_PERSIST"] = url
    environ["BARE_LIFESPAN"] = "mounted" if state == "shut" else ""

    def process(name: str, given: Mapping[str, str]) -> Process:
        given = {"BARE_MODE": mode, **given}
        return Process(http, server, python, directory / f"{name}.log", given)

    bare, ours = process("bare", {}), process("ours", environ)
    other = process("other", environ) if state == "elsewhere" else ours
    return Site(state, bare, ours, other, Store("sqlite", {"url": url}))


STATES = ("fresh", "back", "elsewhere", "degraded", "shut")
PYTHON = sys.executable
