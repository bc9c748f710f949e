"""Retention in the steady state on PostgreSQL: workers append without a pause, and what they wrote
expires after half a minute, so that as much is removed as comes. On top of a long history.

Each worker is a process with the library's own log, writer and keeper. Every few seconds: how fast
rows come and go, what a commit costs, what the tables weigh, what autovacuum does, and how old the
oldest row is that should be gone.

Run:     python -m tests.peers.retention [--seconds 300] [--older 50000000] [--workers 2]
         [--rate 15000] [--events 100] [--bytes 170] [--interval 60] [--database URL]
         (--rate: events/s of each worker, 0 for as many as it can; --events: of each stream; URL: a
         PostgreSQL with room, see `tests.peers.history`; else one is started)
Expect:  nothing is overdue for longer than a purge interval and 10 s, the tables stop to grow, and
         a commit costs what it cost before the first purge (or the exit code is 1).
"""

import argparse
import asyncio
import base64
import contextlib
import json
import os
import secrets
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import asyncpg
from sqlalchemy import make_url

from mcp_persist_middleware.log.live import Limits, LiveStream
from mcp_persist_middleware.log.writer import Writer
from mcp_persist_middleware.maintenance.retention import RetentionLoop
from mcp_persist_middleware.model import Ending, EventKind, Outcome, StreamState, StreamWrite
from mcp_persist_middleware.protocol.event_id import EventIds
from mcp_persist_middleware.settings import Settings
from mcp_persist_middleware.stores.postgres.log import PostgresLog
from tests.benchmarks import library
from tests.benchmarks.floor import PAYLOAD
from tests.peers import history

_TTL, _STREAMS = 30.0, 64
_EVERY = 5.0
_SLACK = 10.0
# So often (seconds) a server looks what there is to vacuum, and so many bytes a row is larger than
# its payload, its entry in the index included.
_NAP, _ROW = 60.0, 120
_NEW_SPACE, _SLOWER = 0.25, 2.0
# A schedule that is ahead by less than that is not waited for.
_AHEAD = 0.005
_STATE = """
SELECT extract(epoch FROM clock_timestamp())::float8 AS at, n_tup_ins AS came, n_tup_del AS went,
       n_live_tup AS alive, n_dead_tup AS dead, autovacuum_count AS vacuums,
       pg_relation_size(c.oid) AS heap, pg_indexes_size(c.oid) AS indexes,
       pg_table_size(c.reltoastrelid) AS toast,
       (SELECT pg_total_relation_size('mcp_stream')) AS streams,
       (SELECT count(*) FROM pg_stat_progress_vacuum) AS vacuuming,
       extract(epoch FROM clock_timestamp())::float8 - (SELECT min(expires_at) FROM mcp_stream
                                                        WHERE expires_at IS NOT NULL) AS overdue
  FROM pg_class AS c JOIN pg_stat_user_tables AS s ON s.relid = c.oid WHERE c.relname = 'mcp_event'
"""


class _Log(PostgresLog):
    """A log that notes how long its commits took."""

    def __init__(self, url: str, timeout: float) -> None:
        super().__init__(make_url(url), prefix=library.PREFIX, timeout=timeout)
        self.taken: list[float] = []

    async def append(self, batch: Sequence[StreamWrite]) -> list[Outcome]:
        began = time.perf_counter()
        outcomes = await super().append(batch)
        self.taken.append((time.perf_counter() - began) * 1e3)
        return outcomes


@dataclass
class Schedule:
    """So many events in a second, of all streams together."""

    rate: float
    began: float = field(default_factory=time.monotonic)
    given: int = 0

    async def turn(self) -> None:
        self.given += 1
        ahead = self.began + self.given / self.rate - time.monotonic() if self.rate else 0.0
        if ahead > _AHEAD:
            await asyncio.sleep(ahead)


async def _write(writer: Writer, schedule: Schedule, events: int, size: int) -> None:
    """One stream after the other."""
    defaults = Settings.load({"url": "unused.db"}, {})
    limits = Limits(
        defaults.run_ahead_events,
        defaults.run_ahead_bytes,
        defaults.max_stream_events,
        defaults.max_stream_bytes,
    )
    frame = PAYLOAD + base64.b64encode(os.urandom(max(0, size - len(PAYLOAD)) * 3 // 4))
    while True:
        record = library.record()
        stream = LiveStream(record, EventIds.of(record.id, record.kind, 1), limits)
        writer.open(stream)
        for _ in range(events):
            await schedule.turn()
            await writer.append(stream, [(EventKind.NOISE, frame)])
        now = time.time()
        writer.end(stream, Ending(StreamState.COMPLETE, stream.last, now, now + _TTL))
        while not stream.ended:
            await stream.signal.wait(30.0)


async def _work(url: str, rate: float, events: int, size: int, interval: float) -> None:
    """A worker, until it is killed; what its commits took, in lines."""
    settings = Settings.load({"url": url, "purge_interval": interval}, {})
    log = _Log(url, settings.store_timeout)
    await log.open(secrets.token_hex(8))
    writer, schedule = Writer(log, settings.store_timeout), Schedule(rate)
    writer.start()
    retention = asyncio.create_task(RetentionLoop(log, settings).run())
    writers = [asyncio.create_task(_write(writer, schedule, events, size)) for _ in range(_STREAMS)]
    while not any(task.done() for task in (retention, *writers)):
        await asyncio.sleep(_EVERY / 2)
        taken, log.taken = log.taken, []
        print(json.dumps([round(ms, 2) for ms in taken]), flush=True)


class _Workers:
    """The processes, and what their commits took since they were last asked."""

    def __init__(self) -> None:
        self._taken: list[float] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._processes: list[asyncio.subprocess.Process] = []

    async def start(self, url: str, given: argparse.Namespace) -> None:
        values = (url, str(given.rate), str(given.events), str(given.bytes), str(given.interval))
        command = [sys.executable, "-m", "tests.peers.retention", "--worker", *values]
        for _ in range(given.workers):
            process = await asyncio.create_subprocess_exec(
                *command, stdout=asyncio.subprocess.PIPE, limit=1 << 24
            )
            self._processes.append(process)
            self._tasks.append(asyncio.create_task(self._follow(process)))

    async def _follow(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while line := await process.stdout.readline():
            self._taken += json.loads(line)

    def taken(self) -> list[float]:
        taken, self._taken = sorted(self._taken), []
        return taken

    @property
    def are_well(self) -> bool:
        return not any(task.done() for task in self._tasks)

    async def stop(self) -> None:
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        await asyncio.gather(*self._tasks)


def _line(since: float, before: Any, now: Any, taken: list[float]) -> dict[str, float]:
    seconds = now["at"] - before["at"]
    line = {
        "s": now["at"] - since,
        "in/s": (now["came"] - before["came"]) / seconds,
        "out/s": (now["went"] - before["went"]) / seconds,
        "p50 ms": statistics.median(taken) if taken else 0.0,
        "p99 ms": taken[int(len(taken) * 0.99)] if taken else 0.0,
        "alive M": now["alive"] / 1e6,
        "dead M": now["dead"] / 1e6,
        "heap MB": now["heap"] / 1e6,
        "index MB": now["indexes"] / 1e6,
        "toast MB": now["toast"] / 1e6,
        "streams MB": now["streams"] / 1e6,
        "vacuums": float(now["vacuums"]),
        "vacuuming": float(now["vacuuming"]),
        "overdue s": max(0.0, now["overdue"] or 0.0),
    }
    print(" ".join(f"{name} {value:.1f}" for name, value in line.items()), flush=True)
    return line


def _verdict(lines: list[dict[str, float]], given: argparse.Namespace) -> list[str]:
    """What is not as it should be. Retention and vacuum have to have come round once; after that
    the highest mark of the tables should hardly rise."""
    before = [line for line in lines if line["s"] < _TTL]
    rest = [line for line in lines if line["s"] > _TTL + given.interval + _NAP]
    half = len(rest) // 2
    if len(before) < 3 or half < 3:
        return ["the run was too short to say anything"]

    def most(part: list[dict[str, float]]) -> float:
        names = ("heap MB", "index MB", "toast MB", "streams MB")
        return max(sum(line[name] for name in names) for line in part)

    written = sum(line["in/s"] for line in rest[half:]) * _EVERY * (given.bytes + _ROW) / 1e6
    more = most(rest[half:]) - most(rest[:half])
    overdue = max(line["overdue s"] for line in rest)
    first, last = (statistics.median(x["p99 ms"] for x in part) for part in (before, rest))
    print(
        f"at most {overdue:.0f} s overdue; {written:.0f} MB written in the last steps, for which"
        f" the tables grew by {more:.0f} MB; p99 of a commit {first:.1f} ms before the first purge,"
        f" then {last:.1f} ms"
    )
    found = []
    if overdue > given.interval + _SLACK:
        found.append(f"purge lags behind by {overdue:.0f} s")
    if more > _NEW_SPACE * written:
        found.append(f"space is not used again: the tables grow by {more:.0f} MB")
    if last > _SLOWER * first + 5:
        found.append(f"a commit took {first:.1f} ms, and takes {last:.1f} ms beside retention")
    return found


async def _measure(url: str, given: argparse.Namespace) -> list[str]:
    connection = await asyncpg.connect(history.plain(url))
    workers, lines = _Workers(), list[dict[str, float]]()
    try:
        began = before = await connection.fetchrow(_STATE)
        await workers.start(url, given)
        while before["at"] - began["at"] < given.seconds and workers.are_well:
            await asyncio.sleep(_EVERY)
            now = await connection.fetchrow(_STATE)
            lines.append(_line(began["at"], before, now, workers.taken()))
            before = now
        died = [] if workers.are_well else ["a worker has died"]
    finally:
        await workers.stop()
        await connection.close()
    return died + _verdict(lines, given)


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.peers.retention")
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--older", type=int, default=50_000_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rate", type=float, default=15_000.0)
    parser.add_argument("--events", type=int, default=100)
    parser.add_argument("--bytes", type=int, default=len(PAYLOAD))
    parser.add_argument("--interval", type=float, default=60.0)
    parser.add_argument("--database", metavar="URL")
    parser.add_argument("--worker", nargs=5, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        url, rate, events, size, interval = given.worker
        asyncio.run(_work(url, float(rate), int(events), int(size), float(interval)))
        return
    with history.server(given.database) as place:
        url = history.database(place, given.older)
        found = asyncio.run(_measure(url, given))
    for sentence in found:
        print(sentence)
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
