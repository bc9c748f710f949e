"""What partitions by stream id would cost and save on PostgreSQL, beside the one table we have.

The same code on the same rows, with the event table cut into one partition for each hour of stream
ids. Then partitions are dropped beside a writer, alone and while somebody reads in a transaction.

Run:     python -m tests.peers.partitions [--partitions 24 168 720]
Expect:  appends cost the same, a look at one stream and each step of what has to be deleted one by
         one cost more with every partition, and DROP keeps writers out for as long as a reader
         stays (DETACH CONCURRENTLY does not).
"""

import argparse
import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable

import asyncpg
from sqlalchemy import make_url

from mcp_persist_middleware.stores.postgres.log import PostgresLog
from tests.benchmarks import library
from tests.benchmarks.floor import PAYLOAD
from tests.peers import history
from tests.support.started import fixtures
from tests.support.stores import Fixture

_HOUR = 3_600_000
_HOURS = 22
_ROUNDS, _STEPS = 60, 10
_STREAMS = [library.record().id for _ in range(257)]
_REPLAYED = library.record().id
_READ_SECONDS = 3.0


def _bound(milliseconds: int) -> str:
    return f"'\\x{milliseconds:012x}'"


async def _log(fixture: Fixture, partitions: int) -> PostgresLog:
    """A million older events, the last hours' worth, in so many partitions; 0 for none."""
    url = fixture("new_postgres")()
    log = PostgresLog(make_url(url), prefix=library.PREFIX, timeout=30.0)
    await log.open("benchmark")
    connection = await asyncpg.connect(history.plain(url))
    hour = int(time.time() * 1000) // _HOUR * _HOUR
    if partitions:
        await connection.execute("""
            ALTER TABLE mcp_event RENAME TO old; ALTER INDEX mcp_event_pkey RENAME TO old_pkey;
            CREATE TABLE mcp_event (LIKE old INCLUDING DEFAULTS, PRIMARY KEY (stream, sequence))
            PARTITION BY RANGE (stream); DROP TABLE old""")
    for number in range(partitions):
        start = hour - (partitions - 2 - number) * _HOUR
        await connection.execute(
            f"CREATE TABLE mcp_event_{number} PARTITION OF mcp_event"
            f" FOR VALUES FROM ({_bound(start)}) TO ({_bound(start + _HOUR)})"
        )
    spread = f"{hour - _HOURS * _HOUR} + n::bigint * {_HOURS * _HOUR // 1000}"
    fill = history.FILL.replace("1700000000000 + n::bigint * 1000", spread)
    await connection.execute(fill, 1, 1000, False, 1000, PAYLOAD)
    await connection.execute("VACUUM ANALYZE")
    await connection.close()
    await library.begin(log, _STREAMS, 1, PAYLOAD)
    await library.begin(log, [_REPLAYED], 1000, PAYLOAD)
    return log


async def _timed(work: Callable[[], Awaitable[object]]) -> float:
    began = time.perf_counter()
    await work()
    return (time.perf_counter() - began) * 1e3


async def _compare(logs: dict[int, PostgresLog]) -> None:
    taken: dict[str, dict[int, list[float]]] = {}

    def note(step: str, which: int, ms: float) -> None:
        taken.setdefault(step, {}).setdefault(which, []).append(ms)

    for number in range(2, 2 + _ROUNDS):
        for which, log in logs.items():
            ms = await library.append_ms(log, _STREAMS[:1], number, PAYLOAD)
            note("append, 1 event", which, ms)
            ms = await library.append_ms(log, _STREAMS[1:], number, PAYLOAD)
            note("append, 256 streams", which, ms)
            look = await _timed(lambda log=log: log.read(_REPLAYED, 999, 10, 10_000))
            note("a look, 1 event", which, look)
            note("replay, 1000 events", which, await library.replay_ms(log, _REPLAYED, 1000))
    for which, log in logs.items():
        await log._driver.execute("UPDATE mcp_stream SET expires_at = 1 WHERE worker = 'gone'")
        for _ in range(_STEPS):
            step = await _timed(lambda log=log: log.purge(10.0, 2000))
            note("purge, 2000 events", which, step)
    for step, found in taken.items():
        middle = {which: statistics.median(ms) for which, ms in found.items()}
        parts = [f"{n}: {ms:.2f} ms (x {ms / middle[0]:.2f})" for n, ms in middle.items()]
        print(f"{step:<20}", "  ".join(parts), flush=True)


async def _drop(log: PostgresLog, first: int, *, beside_a_reader: bool) -> None:
    url = log._url.render_as_string(hide_password=False)
    owner, reader = [await asyncpg.connect(history.plain(url)) for _ in range(2)]
    detach = f"ALTER TABLE mcp_event DETACH PARTITION mcp_event_{first + 1} CONCURRENTLY"
    ways = {
        "DROP": [f"DROP TABLE mcp_event_{first}"],
        "DETACH CONCURRENTLY, DROP": [detach, f"DROP TABLE mcp_event_{first + 1}"],
    }
    number = 1000 * (1 + first)
    for way, commands in ways.items():
        if beside_a_reader:
            await reader.execute("BEGIN")
            await reader.fetchval("SELECT count(*) FROM mcp_event")
        over, taken = asyncio.Event(), list[float]()

        async def write(over: asyncio.Event = over, taken: list[float] = taken) -> None:
            nonlocal number
            while not over.is_set():
                number += 1
                taken.append(await library.append_ms(log, _STREAMS[1:], number, PAYLOAD))

        async def leave() -> None:
            await asyncio.sleep(_READ_SECONDS)
            await reader.execute("COMMIT")

        tasks = [asyncio.create_task(write())]
        if beside_a_reader:
            tasks.append(asyncio.create_task(leave()))
        began = time.perf_counter()
        for command in commands:
            await owner.execute(command)
        took = (time.perf_counter() - began) * 1e3
        over.set()
        await asyncio.gather(*tasks)
        beside = f", beside a reader of {_READ_SECONDS:g} s" if beside_a_reader else ""
        print(f"{way}{beside}: {took:.0f} ms; the longest append {max(taken):.0f} ms", flush=True)
    await owner.close()
    await reader.close()


async def _measure(fixture: Fixture, partitions: list[int]) -> None:
    logs = {count: await _log(fixture, count) for count in (0, *partitions)}
    await _compare(logs)
    await _drop(logs[partitions[0]], 1, beside_a_reader=False)
    await _drop(logs[partitions[0]], 3, beside_a_reader=True)
    for log in logs.values():
        await log.aclose()


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.peers.partitions")
    parser.add_argument("--partitions", type=int, nargs="+", default=[24, 168, 720])
    arguments = parser.parse_args()
    with fixtures() as fixture:
        asyncio.run(_measure(fixture, arguments.partitions))


if __name__ == "__main__":
    main()
