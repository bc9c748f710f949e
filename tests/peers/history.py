"""What 50 million older events cost: append, replay and purge on PostgreSQL, against 50 thousand.

Two databases of one server, filled by SQL alone and analysed; each step is taken in turns on both.

Run:     python -m tests.peers.history [--events 50000000] [--database URL]
         (URL: a PostgreSQL with room for about 20 GB; else one is started in a temporary directory)
Expect:  every ratio near 1, and no plan that walks a table.
"""

import argparse
import asyncio
import contextlib
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import asyncpg
from sqlalchemy import make_url

from mcp_persist_middleware.log import connect
from mcp_persist_middleware.log.base import EventLog
from mcp_persist_middleware.settings import Settings
from tests.benchmarks import library
from tests.benchmarks.floor import PAYLOAD
from tests.support.stores import PostgresServer, new_database

_SMALL, _PER_STREAM = 50_000, 1000
_EXPIRED, _REPLAYED = 20, 1000
_ROUNDS, _STREAMS, _PURGED = 30, 256, 500
_FILL = """
WITH s AS (
  INSERT INTO mcp_stream (id, kind, namespace, path, session, principal, epoch, state,
                          last_sequence, worker, created_at, ended_at, expires_at, request_ids,
                          trace)
  SELECT decode(lpad(to_hex(1700000000000 + n * 1000), 12, '0'), 'hex') || substr(sha256(n::text::bytea), 1, 10),
         'p', 'default', '/mcp', 'old-' || n, 'principal', 1, 1, $2::int, 'gone', 1.7e9, 1.7e9,
         CASE WHEN $3::bool THEN 1 ELSE 1e10 END, '[1]', ''
  FROM generate_series($1::int, $1::int + $4::int - 1) AS n RETURNING id)
INSERT INTO mcp_event (stream, sequence, epoch, kind, codec, payload)
SELECT s.id, n, 1, 0, 0, $5 FROM s CROSS JOIN generate_series(1, $2::int) AS n
"""  # noqa: E501
_AT_ONCE = 1000


async def _fill(url: str, events: int) -> None:
    """Ended streams of a thousand events each; the oldest have expired."""
    plain = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    connection = await asyncpg.connect(plain)
    try:
        await connection.execute(_FILL, 1, _PER_STREAM, True, _EXPIRED, PAYLOAD)
        first, left = 1 + _EXPIRED, events // _PER_STREAM
        while left:
            count = min(left, _AT_ONCE)
            await connection.execute(_FILL, first, _PER_STREAM, False, count, PAYLOAD)
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


async def _measure(urls: list[str], sizes: list[int]) -> None:
    logs = [connect.make_log(Settings.load({"url": url})) for url in urls]
    for log, url, size in zip(logs, urls, sizes, strict=True):
        await log.open("benchmark")
        began = time.monotonic()
        await _fill(url, size)
        print(f"in {time.monotonic() - began:.0f} s", flush=True)
    streams = [library.record().id for _ in range(_STREAMS + 1)]
    replayed = library.record().id
    for log in logs:
        await library.begin(log, streams, 1, PAYLOAD)
        await library.begin(log, [replayed], _REPLAYED, PAYLOAD)
    for step in _STEPS:
        taken: list[list[float]] = [[], []]
        for number in range(_ROUNDS):
            for which in (0, 1) if number % 2 else (1, 0):
                used = [*streams, replayed] if step.startswith("replay") else streams
                at = 2 + number + (_ROUNDS if step.endswith("streams") else 0)
                taken[which].append(await _ms(logs[which], step, used, at))
        small, large = map(statistics.median, taken)
        print(
            f"{step:<22} {small:7.2f} ms, {large:7.2f} ms with {sizes[1]:,}: x {large / small:.2f}"
        )
    for log in logs:
        await log.aclose()


@contextlib.contextmanager
def _server(given: str | None) -> Iterator[str]:
    if given:
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="history-", ignore_cleanup_errors=True) as directory:
        options = {"max_wal_size": "4GB", "shared_buffers": "1GB", "maintenance_work_mem": "1GB"}
        server = PostgresServer(Path(directory) / "data", options)
        server.start()
        try:
            yield server.url()
        finally:
            server.stop("immediate")


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.peers.history")
    parser.add_argument("--events", type=int, default=50_000_000)
    parser.add_argument("--database", metavar="URL")
    arguments = parser.parse_args()
    with _server(arguments.database) as server:
        urls = [new_database(server), new_database(server)]
        asyncio.run(_measure(urls, [_SMALL, arguments.events]))


if __name__ == "__main__":
    main()
