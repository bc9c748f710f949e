"""What `/healthz/ready` and `/healthz/live` say under each fault, and how soon.

A server process with the default settings, asked by a prober every 50 ms, each question on a
connection of its own that waits 2 s at most, as a balancer's do. Each fault is there for some
seconds, and goes. The answers are those that came while it was there.

Run:     python -m tests.peers.ailing [--fault NAME]
Expect:  a table in Markdown; exit code 0: where a fault keeps a worker from serving it is unready
         within its bound (0.4 * store_timeout + 1 s), its process lives as far as the probe can
         tell, and it is ready again by itself.
"""

import argparse
import asyncio
import contextlib
import os
import re
import signal
import sqlite3
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx2

from tests.faults.test_full_disk import mounted
from tests.faults.test_postgres import administer
from tests.support.processes import ServerProcess, mcp_server
from tests.support.session import RawSession
from tests.support.stores import PostgresServer, RedisServer, Store
from tests.support.wire import Wire

_EVERY, _PATIENCE = 0.05, 2.0
# 0.4 of the default store_timeout, and how long an answer is fresh; and what a busy machine adds.
BOUND = 0.4 * 5 + 1 + 0.5
_BACK = 40.0
_LENGTH = 6.0
_SILENCE = "no answer"


@dataclass(slots=True)
class Answers:
    """What was said, and when (seconds after the fault began)."""

    ready: list[tuple[float, str]] = field(default_factory=list)
    live: list[tuple[float, str]] = field(default_factory=list)

    def first_trouble(self) -> tuple[float, str] | None:
        """When it said first that it is not ready, and why."""
        return next(((at, said) for at, said in self.ready if said != "ready"), None)


class Prober:
    """Asks both pages, again and again."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/healthz"
        self._begin = time.monotonic()
        self.answers = Answers()

    def begin(self) -> None:
        """From now on the fault is there."""
        self._begin, self.answers = time.monotonic(), Answers()

    @property
    def now(self) -> float:
        return time.monotonic() - self._begin

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._ask("/ready", lambda: self.answers.ready))
            group.create_task(self._ask("/live", lambda: self.answers.live))

    async def _ask(self, page: str, into: Callable[[], list[tuple[float, str]]]) -> None:
        while True:
            asked = into()
            said = await self.ask(page)
            if into() is asked:
                asked.append((self.now, said))
            await asyncio.sleep(_EVERY)

    async def ask(self, page: str) -> str:
        """One answer in words."""
        try:
            async with httpx2.AsyncClient(timeout=_PATIENCE) as client:
                found = (await client.get(self._url + page)).json()
        except httpx2.TimeoutException:
            return f"{_SILENCE} in {_PATIENCE:g} s"
        except httpx2.TransportError:
            return "no connection"
        why = found.get("reasons")
        if why:
            return str(why[0])
        redis = ", `redis_up` false" if found.get("redis_up") is False else ""
        return str(found["status"]) + redis


@dataclass(slots=True)
class Ill:
    """A server, and how to make it ill."""

    store: Store
    fault: Callable[[ServerProcess], AbstractAsyncContextManager[None]]
    is_served: bool = False
    """Requests are served as ever meanwhile, and it stays ready."""


Make = Callable[[Path], AbstractAsyncContextManager[Ill]]


def _sqlite(directory: Path) -> Store:
    return Store("sqlite", {"url": f"sqlite+aiosqlite:///{directory / 'events.db'}"})


def _on_sqlite(fault: Callable[[Path], AbstractAsyncContextManager[None]]) -> Make:
    @asynccontextmanager
    async def make(directory: Path) -> AsyncIterator[Ill]:
        yield Ill(_sqlite(directory), lambda _: fault(directory / "events.db"))

    return make


@asynccontextmanager
async def locked(file: Path) -> AsyncIterator[None]:
    """Another process holds the file's write lock."""
    with contextlib.closing(sqlite3.connect(file, isolation_level=None, timeout=10)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


@asynccontextmanager
async def full(directory: Path) -> AsyncIterator[Ill]:
    """The disk of the SQLite file is full."""
    with mounted(4) as disk:

        @asynccontextmanager
        async def fault(_: ServerProcess) -> AsyncIterator[None]:
            disk.fill()
            yield
            disk.clear()

        yield Ill(_sqlite(disk.place), fault)


@asynccontextmanager
async def deleted(file: Path) -> AsyncIterator[None]:
    """Somebody deletes the file."""
    for part in ("", "-wal", "-shm"):
        Path(f"{file}{part}").unlink(missing_ok=True)
    yield


def _process(fault: Callable[[ServerProcess], AbstractAsyncContextManager[None]]) -> Make:
    @asynccontextmanager
    async def make(directory: Path) -> AsyncIterator[Ill]:
        yield Ill(_sqlite(directory), fault)

    return make


@asynccontextmanager
async def stopped(server: ServerProcess) -> AsyncIterator[None]:
    """The process stands still for longer than its lease."""
    os.kill(server.pid, signal.SIGSTOP)
    await asyncio.sleep(11)
    yield
    os.kill(server.pid, signal.SIGCONT)


@asynccontextmanager
async def killed(server: ServerProcess) -> AsyncIterator[None]:
    """The process is killed, and started again."""
    await server.kill()
    yield
    await server.start()


@asynccontextmanager
async def draining(server: ServerProcess) -> AsyncIterator[None]:
    """SIGTERM while a call is under way; then it is started again."""
    session = await RawSession.open(server.port)
    call = await session.call("count", n=1000, delay=0.1)
    await call.take(2)
    ending = asyncio.create_task(server.terminate(30))
    yield
    await ending
    await server.start()


def _on_postgres(
    fault: Callable[[PostgresServer, Wire], AbstractAsyncContextManager[None]],
) -> Make:
    @asynccontextmanager
    async def make(directory: Path) -> AsyncIterator[Ill]:
        server = PostgresServer(directory / "data", {"fsync": "off"})
        server.start()
        try:
            async with Wire(server.port) as wire:
                store = Store("postgres", {"url": server.url(port=wire.port)})
                yield Ill(store, lambda _: fault(server, wire))
        finally:
            with contextlib.suppress(Exception):
                server.stop("immediate")

    return make


@asynccontextmanager
async def database_stopped(server: PostgresServer, _: Wire) -> AsyncIterator[None]:
    """PostgreSQL is stopped."""
    await asyncio.to_thread(server.stop, "immediate")
    yield
    await asyncio.to_thread(server.start)


@asynccontextmanager
async def wire_held(_: PostgresServer, wire: Wire) -> AsyncIterator[None]:
    """Nothing passes between the worker and PostgreSQL, and nobody is told."""
    wire.hold()
    yield
    wire.cut()
    wire.release()


@asynccontextmanager
async def read_only(server: PostgresServer, wire: Wire) -> AsyncIterator[None]:
    """PostgreSQL takes no writes."""
    await administer(server.url(), "ALTER SYSTEM SET default_transaction_read_only = on")
    await administer(server.url(), "SELECT pg_reload_conf()")
    wire.cut()
    yield
    await administer(
        server.url(),
        "SET default_transaction_read_only = off",
        "ALTER SYSTEM RESET default_transaction_read_only",
    )
    await administer(server.url(), "SELECT pg_reload_conf()")
    wire.cut()


@asynccontextmanager
async def no_room(server: PostgresServer, _: Wire) -> AsyncIterator[None]:
    """PostgreSQL has no room for a row."""
    table = "RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE disk_full; END'"
    await administer(
        server.url(),
        f"CREATE FUNCTION no_room() {table}",
        "CREATE TRIGGER no_room BEFORE INSERT ON mcp_event EXECUTE FUNCTION no_room()",
        "CREATE TRIGGER no_room BEFORE INSERT ON mcp_meta EXECUTE FUNCTION no_room()",
    )
    yield
    await administer(
        server.url(), "DROP TRIGGER no_room ON mcp_event", "DROP TRIGGER no_room ON mcp_meta"
    )


def _behind_redis(
    fault: Callable[[RedisServer, Path], AbstractAsyncContextManager[None]], *, is_served: bool
) -> Make:
    @asynccontextmanager
    async def make(directory: Path) -> AsyncIterator[Ill]:
        server = RedisServer(directory / "redis")
        server.start()
        try:
            settings = {**_sqlite(directory).settings, "redis": server.url()}
            file = directory / "events.db"
            yield Ill(Store("redis", settings), lambda _: fault(server, file), is_served)
        finally:
            server.stop(signal.SIGKILL)

    return make


@asynccontextmanager
async def redis_killed(server: RedisServer, _: Path) -> AsyncIterator[None]:
    """Redis is killed."""
    server.stop(signal.SIGKILL)
    yield
    server.start()


@asynccontextmanager
async def redis_frozen(server: RedisServer, _: Path) -> AsyncIterator[None]:
    """Redis stands still."""
    assert server.process is not None
    os.kill(server.process.pid, signal.SIGSTOP)
    yield
    os.kill(server.process.pid, signal.SIGCONT)


@asynccontextmanager
async def sql_locked(_: RedisServer, file: Path) -> AsyncIterator[None]:
    """SQL behind Redis takes no writes."""
    async with locked(file):
        yield


FAULTS: dict[str, Make] = {
    "SQLite: another process holds the write lock": _on_sqlite(locked),
    "SQLite: the disk is full": full,
    "SQLite: the file is deleted (a new one is made)": _on_sqlite(deleted),
    "PostgreSQL: stopped": _on_postgres(database_stopped),
    "PostgreSQL: nothing passes on the wire": _on_postgres(wire_held),
    "PostgreSQL: takes no writes": _on_postgres(read_only),
    "PostgreSQL: has no room for rows": _on_postgres(no_room),
    "Redis: killed": _behind_redis(redis_killed, is_served=True),
    "Redis: stands still": _behind_redis(redis_frozen, is_served=True),
    "Redis in front: SQL takes no writes": _behind_redis(sql_locked, is_served=False),
    "process: SIGTERM, a call is under way": _process(draining),
    "process: stands still for longer than its lease": _process(stopped),
    "process: killed": _process(killed),
}
# The fault ends at once, and needs not be seen.
_PASSING = ("SQLite: the file is deleted (a new one is made)",)


@dataclass(slots=True)
class Row:
    """A line of the table."""

    name: str
    said: str
    after: float | None
    live: str
    again: float | None
    faults: list[str]

    def __str__(self) -> str:
        after = "-" if self.after is None else f"{self.after:.1f} s"
        again = "-" if self.again is None else f"{self.again:.1f} s"
        return f"| {self.name} | {self.said} | {after} | {self.live} | {again} |"


@asynccontextmanager
async def started(server: ServerProcess) -> AsyncIterator[None]:
    """On a machine that is busy with other things, too."""
    await server.start(60)
    try:
        yield
    finally:
        await server.kill()


async def ailing(name: str, directory: Path) -> Row:
    """One fault."""
    async with FAULTS[name](directory) as ill:
        server = mcp_server(directory, store=ill.store, settings={"health_path": "/healthz"})
        async with started(server):
            prober = Prober(server.port)
            await _ready(prober)
            probing = asyncio.create_task(prober.run())
            try:
                await asyncio.sleep(0.5)
                return await _through(name, ill, server, prober)
            finally:
                probing.cancel()


async def _through(name: str, ill: Ill, server: ServerProcess, prober: Prober) -> Row:
    prober.begin()
    async with ill.fault(server):
        while prober.now < _LENGTH or not prober.answers.ready:
            await asyncio.sleep(0.1)
        seen = prober.answers
        prober.answers = Answers()
    begin = time.monotonic()
    await _ready(prober)
    again = time.monotonic() - begin
    return _judged(name, ill, seen, again)


def _judged(name: str, ill: Ill, seen: Answers, again: float) -> Row:
    trouble = seen.first_trouble()
    lives = {said for _, said in seen.live}
    faults = []
    if ill.is_served:
        if trouble is None or "redis_up" not in trouble[1]:
            faults.append(f"{name}: {trouble}")
    elif name not in _PASSING:
        if trouble is None:
            faults.append(f"{name}: it was never unready")
        elif trouble[0] > BOUND and not name.startswith("process"):
            faults.append(f"{name}: unready after {trouble[0]:.1f} s")
    if not name.startswith("process") and lives != {"live"}:
        faults.append(f"{name}: live said {lives}")
    said = _plain(trouble[1]) if trouble else "ready"
    after = trouble[0] if trouble else None
    live = ", ".join(sorted(lives)) or _SILENCE
    return Row(name, said, after, live, again if trouble else None, faults)


def _plain(text: str) -> str:
    """Without where it was."""
    return re.sub(r"(The store )\S+", r"\1…", text).replace("|", "/")


async def _ready(prober: Prober) -> None:
    async with asyncio.timeout(_BACK):
        while await prober.ask("/ready") != "ready":
            await asyncio.sleep(_EVERY)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="tests.peers.ailing", description=__doc__)
    parser.add_argument("--fault", choices=FAULTS, action="append")
    given = parser.parse_args()
    faults: list[str] = []
    print("| fault | `ready` says | after | `live` says | ready again after |")
    print("|---|---|---|---|---|", flush=True)
    for name in given.fault or FAULTS:
        with tempfile.TemporaryDirectory(prefix="mcp-ailing-") as place:
            Path(place).chmod(0o755)
            row = asyncio.run(ailing(name, Path(place)))
        print(row, flush=True)
        faults += row.faults
    print(*faults, sep="\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
