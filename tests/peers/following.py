"""Two workers write as fast as they are told to, and whoever follows all of it (`subscribe`) is
killed with -9 and started again every second: of each event it has to have heard once.

Workers are processes with the library's own worker on one store; who follows is a process that
commits what it has heard to a SQLite file of its own, each time together with its cursor.

Run:     python -m tests.peers.following [--seconds 20] [--rate 5000] [--store NAME …]
         (--rate: events/s of each of the two workers; NAME: of sqlite, postgres, sqlite+redis,
         postgres+redis, else all of them)
Expect:  of each store a line; every event once, and exit code 0.
"""

import argparse
import asyncio
import contextlib
import dataclasses
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

from mcp_persist_middleware import FeedEvent, Persistence
from mcp_persist_middleware.log.live import LiveStream
from mcp_persist_middleware.model import Ending, EventKind, StreamState
from mcp_persist_middleware.persistence import access_to
from mcp_persist_middleware.protocol.event_id import EventIds, name_of, new_stream_id
from mcp_persist_middleware.streams.context import Context
from tests.benchmarks import library
from tests.benchmarks.floor import PAYLOAD
from tests.peers.retention import Schedule
from tests.support.processes import ROOT
from tests.support.started import started
from tests.support.stores import Store

STORES = ("sqlite", "postgres", "sqlite+redis", "postgres+redis")
WORKERS, STREAMS, EVENTS = 2, 16, 100
LIVES, CATCH_UP = 1.0, 60.0
_FLUSH = 0.05


async def _calls(context: Context, schedule: Schedule, until: float) -> None:
    """One stream after the other: progress, and an answer."""
    while time.monotonic() < until:
        made = library.record(new_stream_id(context.log.now()))
        record = dataclasses.replace(made, worker=context.member.name)
        stream = LiveStream(record, EventIds.of(record.id, record.kind, 1), context.limits)
        context.writer.open(stream)
        for n in range(1, EVENTS + 1):
            await schedule.turn()
            kind = EventKind.RESPONSE if n == EVENTS else EventKind.NOISE
            await context.writer.append(stream, [(kind, PAYLOAD)])
        now = context.log.now()
        context.writer.end(stream, Ending(StreamState.COMPLETE, stream.last, now, now + 3600))
        while not stream.ended:
            await stream.signal.wait(30.0)


async def write(rate: float, seconds: float) -> None:
    """A worker; the store is in the environment."""
    async with Persistence() as persistence:
        context, schedule = await access_to(persistence).context(), Schedule(rate)
        until = time.monotonic() + seconds
        await asyncio.gather(*[_calls(context, schedule, until) for _ in range(STREAMS)])


class Heard:
    """What was heard, with the cursor behind it, in one transaction each time."""

    def __init__(self, file: Path) -> None:
        self._file = sqlite3.connect(file, isolation_level=None)
        self._file.executescript(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF;"
            "CREATE TABLE IF NOT EXISTS heard (stream TEXT, sequence INTEGER);"
            "CREATE TABLE IF NOT EXISTS place (cursor TEXT, at REAL);"
        )

    @property
    def cursor(self) -> str:
        row = self._file.execute("SELECT cursor FROM place").fetchone()
        return row[0] if row else "start"

    def keep(self, items: list[tuple[str, int]], cursor: str) -> None:
        self._file.execute("BEGIN")
        self._file.executemany("INSERT INTO heard VALUES (?, ?)", items)
        self._file.execute("DELETE FROM place")
        self._file.execute("INSERT INTO place VALUES (?, ?)", (cursor, time.time()))
        self._file.execute("COMMIT")


async def follow(file: Path) -> None:
    """Until it is killed."""
    heard = Heard(file)
    async with Persistence() as persistence, persistence.subscribe(after=heard.cursor) as feed:
        items: list[tuple[str, int]] = []
        last = None

        async def flush() -> None:
            while True:
                await asyncio.sleep(_FLUSH)
                if last is not None and items:
                    heard.keep(items, last.cursor)
                    items.clear()

        flushing = asyncio.create_task(flush())
        async for item in feed:
            assert isinstance(item, FeedEvent), item
            items.append((item.stream, item.sequence))
            last = item
        flushing.cancel()


def _process(store: Store, *arguments: str) -> subprocess.Popen[bytes]:
    env = os.environ | {"PYTHONPATH": str(ROOT)} | store.environ
    command = [sys.executable, "-m", "tests.peers.following", *arguments]
    return subprocess.Popen(command, env=env, cwd=ROOT)


@contextlib.asynccontextmanager
async def _followed(store: Store, file: Path) -> AsyncIterator[list[int]]:
    """Somebody who follows lives for a second at a time; how many there were."""
    lives, stop = [0], False

    async def live() -> None:
        while not stop:
            process = _process(store, "--follow", str(file))
            lives[0] += 1
            # It takes a moment to begin: its second is one of work.
            began, at = time.monotonic(), _at(file)
            while _at(file) == at and time.monotonic() - began < 10 and not stop:
                await asyncio.sleep(0.02)
            await asyncio.sleep(LIVES)
            process.send_signal(signal.SIGKILL)
            process.wait()

    task = asyncio.create_task(live())
    try:
        yield lives
    finally:
        stop = True
        await task


def _ask(file: Path, sql: str) -> list[tuple[object, ...]]:
    with contextlib.closing(sqlite3.connect(file, timeout=10)) as connection:
        try:
            return connection.execute(sql).fetchall()
        except sqlite3.OperationalError:
            return []


def _at(file: Path) -> object:
    return _ask(file, "SELECT max(rowid) FROM heard")


async def show(name: str, rate: float, seconds: float) -> bool:
    """One store; whether each event was heard once."""
    with tempfile.TemporaryDirectory() as there, started(name, Path(there)) as store:
        file = Path(there) / "heard.db"
        began = time.monotonic()
        async with _followed(store, file) as lives:
            given = ("--write", str(rate), "--seconds", str(seconds))
            workers = [_process(store, *given) for _ in range(WORKERS)]
            while any(worker.poll() is None for worker in workers):
                await asyncio.sleep(0.1)
            wrote = time.monotonic() - began
            sql = "SELECT stream, count(*) FROM mcp_event GROUP BY stream"
            written = {name_of(bytes(s)): int(n) for s, n in await store.rows(sql)}
            total, late = sum(written.values()), time.monotonic()
            while time.monotonic() - late < CATCH_UP:
                ((heard,),) = _ask(file, "SELECT count(*) FROM heard") or ((0,),)
                if int(str(heard)) >= total:
                    break
                await asyncio.sleep(0.1)
            late = time.monotonic() - late
            # Whoever tells something twice gets the time to do so.
            await asyncio.sleep(2 * LIVES)
        each = "SELECT stream, count(*), count(DISTINCT sequence) FROM heard GROUP BY stream"
        found = {str(s): (n, different) for s, n, different in _ask(file, each)}
    missing = sum(n - int(str(found.get(s, (0, 0))[1])) for s, n in written.items())
    twice = sum(int(str(n)) - int(str(different)) for n, different in found.values())
    print(
        f"{name:15} {total:8,} events in {wrote:5.1f} s ({total / seconds:7,.0f}/s), killed "
        f"{lives[0] - 1:3} times, the last heard {late:4.1f} s later: {missing} missing, "
        f"{twice} twice",
        flush=True,
    )
    return not missing and not twice and total > 0 and lives[0] > 1


async def main() -> bool:
    """Every store that is named."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rate", type=float, default=5000.0)
    parser.add_argument("--store", action="append", choices=STORES)
    parser.add_argument("--write", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--follow", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.write is not None:
        await write(given.write, given.seconds)
        return True
    if given.follow is not None:
        await follow(given.follow)
        return True
    return all([await show(name, given.rate, given.seconds) for name in given.store or STORES])


if __name__ == "__main__":
    sys.exit(not asyncio.run(main()))
