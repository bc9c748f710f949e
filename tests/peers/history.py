"""What 50 million older events cost: append, replay and purge on PostgreSQL, against 50 thousand.

Two databases of one server, filled by SQL alone and analysed; each step is taken in turns on both,
and then once more under EXPLAIN: which indexes each statement uses, and how many pages it touches.

Run:     python -m tests.peers.history [--events 50000000] [--database URL]
         (URL: a PostgreSQL with room for 300 bytes for each event, whose databases `history_N` are
         made, kept and found again; else one is started in a temporary directory)
Expect:  every ratio near 1, and no plan that walks a table (or the exit code is 1).
"""

import argparse
import asyncio
import contextlib
import secrets
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
from sqlalchemy import make_url

from mcp_persist_middleware.log.base import EventLog
from mcp_persist_middleware.model import Event, EventKind, StreamWrite
from mcp_persist_middleware.stores.postgres.batch import PostgresBatch
from mcp_persist_middleware.stores.postgres.log import PostgresLog
from tests.benchmarks import library
from tests.benchmarks.floor import PAYLOAD
from tests.support import stores
from tests.support.stores import PostgresServer

_SMALL, _PER_STREAM = 50_000, 1000
_EXPIRED, _REPLAYED = 20, 1000
_ROUNDS, _STREAMS, _PURGED = 30, 256, 500
FILL = """
WITH s AS (
  INSERT INTO mcp_stream (id, kind, namespace, path, session, principal, epoch, state,
                          last_sequence, worker, created_at, ended_at, expires_at, request_ids,
                          trace)
  SELECT decode(lpad(to_hex(1700000000000 + n::bigint * 1000), 12, '0'), 'hex') || substr(sha256(n::text::bytea), 1, 10),
         'p', 'default', '/mcp', 'old-' || n, 'principal', 1, 1, $2::int, 'gone', 1.7e9, 1.7e9,
         CASE WHEN $3::bool THEN 1 ELSE 1e10 END, '[1]', ''
  FROM generate_series($1::int, $1::int + $4::int - 1) AS n RETURNING id)
INSERT INTO mcp_event (stream, sequence, epoch, kind, codec, payload)
SELECT s.id, n, 1, 0, 0, $5 FROM s CROSS JOIN generate_series(1, $2::int) AS n
"""  # noqa: E501
_AT_ONCE = 1000


def plain(url: str) -> str:
    """A store's URL, for the driver alone."""
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


async def fill(url: str, events: int) -> None:
    """Ended streams of a thousand events each."""
    connection = await asyncpg.connect(plain(url))
    try:
        first, left = 1, events // _PER_STREAM
        while left:
            count = min(left, _AT_ONCE)
            await connection.execute(FILL, first, _PER_STREAM, False, count, PAYLOAD)
            first, left = first + count, left - count
            if first % 10_000 < _AT_ONCE:
                print(f"filled {first * _PER_STREAM:,}", flush=True)
        await connection.execute("VACUUM ANALYZE")
        size = await connection.fetchval("SELECT pg_database_size(current_database())")
        print(f"{events:,} events: {size / 1e9:.2f} GB", flush=True)
    finally:
        await connection.close()


async def _ms(log: EventLog, step: str, streams: list[bytes], number: int) -> float:
    match step:
        case "append, 1 event":
            return await library.append_ms(log, streams[:1], number, PAYLOAD)
        case "append, 256 streams":
            return await library.append_ms(log, streams[1:], number, PAYLOAD)
        case "replay, 1000 events":
            return await library.replay_ms(log, streams[-1], _REPLAYED)
        case _:
            begin = time.perf_counter()
            purged = await log.purge(10.0, _PURGED)
            assert purged.events == _PURGED, purged
            return (time.perf_counter() - begin) * 1e3


_STEPS = ("append, 1 event", "append, 256 streams", "replay, 1000 events", "purge, 500 events")


async def expire(url: str, streams: int, per_stream: int = _PER_STREAM) -> None:
    """Streams, older than all others, whose time is over."""
    connection = await asyncpg.connect(plain(url))
    try:
        first = -secrets.randbelow(1 << 30) - streams
        await connection.execute(FILL, first, per_stream, True, streams, PAYLOAD)
    finally:
        await connection.close()


class _Explained:
    """The driver's connection; each statement is explained before it is run."""

    def __init__(self, driver: Any) -> None:
        self._driver = driver
        self.plans: list[Any] = []

    def transaction(self) -> Any:
        return self._driver.transaction()

    async def fetch(self, sql: str, *values: object) -> Any:
        """Run a statement twice, once for nothing."""
        trial = self._driver.transaction()
        await trial.start()
        found = await self._driver.fetchval(
            f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {sql}", *values
        )
        await trial.rollback()
        self.plans.append(found[0]["Plan"])
        return await self._driver.fetch(sql, *values)

    async def execute(self, sql: str, *values: object) -> Any:
        """A setting, which has no plan."""
        return await self._driver.execute(sql, *values)


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for part in plan.get("Plans", ()):
        yield from _nodes(part)


def _shown(plans: list[Any]) -> tuple[int, list[str]]:
    """The pages that statements touch, and how they reach the tables."""
    pages = sum(p["Shared Hit Blocks"] + p["Shared Read Blocks"] for p in plans)
    nodes = [node for plan in plans for node in _nodes(plan)]
    how = [
        f"{node['Node Type']} {node.get('Index Name', node['Relation Name'])}"
        if "Relation Name" in node and "Scan" in node["Node Type"]
        else f"{node['Node Type']} {node['Index Name']}"
        for node in nodes
        if "Scan" in node["Node Type"] and ("Relation Name" in node or "Index Name" in node)
    ]
    return pages, sorted(set(how))


async def _explain(log: PostgresLog, step: str, streams: list[bytes], number: int) -> list[Any]:
    explained = _Explained(log._driver)
    event = (Event(number, 1, EventKind.NOISE, PAYLOAD),)
    match step:
        case "append, 1 event":
            await PostgresBatch(log._statements, explained)(
                [StreamWrite(streams[0], 1, events=event)]
            )
        case "append, 256 streams":
            writes = [StreamWrite(stream, 1, events=event) for stream in streams[1:]]
            await PostgresBatch(log._statements, explained)(writes)
        case "replay, 1000 events":
            await log._reads.page(explained, streams[-1], 0, *library.PAGE)
        case _:
            await log._reads.purge(explained, 10.0, 10.0, _PURGED)
    return explained.plans


async def _measure(urls: list[str], sizes: list[int]) -> bool:
    logs = [PostgresLog(make_url(url), prefix=library.PREFIX, timeout=30.0) for url in urls]
    streams = [library.record().id for _ in range(_STREAMS + 1)]
    replayed = library.record().id
    for log, url in zip(logs, urls, strict=True):
        await log.open("benchmark")
        await expire(url, _EXPIRED)
        await library.begin(log, streams, 1, PAYLOAD)
        await library.begin(log, [replayed], _REPLAYED, PAYLOAD)
    walked = False
    for step in _STEPS:
        taken: list[list[float]] = [[], []]
        used = [*streams, replayed] if step.startswith("replay") else streams
        # After the rounds of the step before.
        first = 2 + (_ROUNDS + 1 if step.endswith("streams") else 0)
        for number in range(_ROUNDS):
            for which in (0, 1) if number % 2 else (1, 0):
                taken[which].append(await _ms(logs[which], step, used, first + number))
        small, large = map(statistics.median, taken)
        print(
            f"{step:<22} {small:7.2f} ms, {large:7.2f} ms with {sizes[1]:,}: x {large / small:.2f}"
        )
        plans = [_shown(await _explain(log, step, used, first + _ROUNDS)) for log in logs]
        print(f"{'':<22} {plans[0][0]} pages, {plans[1][0]} pages; {', '.join(plans[1][1])}")
        walked = walked or any(how.startswith("Seq Scan") for how in plans[1][1])
    for log in logs:
        await log.aclose()
    return walked


@contextlib.contextmanager
def server(given: str | None) -> Iterator[str]:
    if given:
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="history-", ignore_cleanup_errors=True) as directory:
        options = {"max_wal_size": "4GB", "shared_buffers": "1GB", "maintenance_work_mem": "1GB"}
        started = PostgresServer(Path(directory) / "data", options)
        started.start()
        try:
            yield started.url()
        finally:
            started.stop("immediate")


def database(server: str, events: int) -> str:
    """The URL of a database with so many older events, made and filled if it is not there."""
    url, is_new = stores.named_database(server, f"history_{events}")
    if is_new:
        began = time.monotonic()
        asyncio.run(_make(url, events))
        print(f"in {time.monotonic() - began:.0f} s", flush=True)
    return url


async def _make(url: str, events: int) -> None:
    log = PostgresLog(make_url(url), prefix=library.PREFIX, timeout=30.0)
    await log.open("benchmark")
    await log.aclose()
    await fill(url, events)


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.peers.history")
    parser.add_argument("--events", type=int, default=50_000_000)
    parser.add_argument("--database", metavar="URL")
    arguments = parser.parse_args()
    with server(arguments.database) as place:
        sizes = [_SMALL, arguments.events]
        sys.exit(asyncio.run(_measure([database(place, size) for size in sizes], sizes)))


if __name__ == "__main__":
    main()
