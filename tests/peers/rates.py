"""Events per second that a log takes, beside mcp-persist 2.2.0 and beside the bare driver.

So many streams write at once, each one event after the other; rounds of ours, of the competitor
and of the driver's own bulk way (COPY of 1,024 rows, a pipeline of 1,024 XADD) take turns.

Run:     python -m tests.peers.rates [--store NAME …] [--competitor PYTHON]
         (PYTHON: an interpreter with `mcp-persist[postgres,redis]==2.2.0`)
Expect:  at 256 streams at least 4 times the competitor's rate, and 0.6 of the driver's.
"""

import argparse
import asyncio
import contextlib
import os
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import asyncpg
import redis.asyncio
from sqlalchemy import make_url

from mcp_persist_middleware.settings import Settings
from mcp_persist_middleware.stores import connect
from tests.benchmarks import library
from tests.benchmarks.floor import PAYLOAD
from tests.support.started import fixtures
from tests.support.stores import STORES, Store

_STREAMS = (1, 16, 256)
_SECONDS = 3.0
_ROUNDS = 3
_BULK = 1024
Rate = Callable[[int], Awaitable[float]]


def _events(streams: int, guess: float) -> int:
    """How many events of each stream take about so long as a round should."""
    return max(20, int(guess * _SECONDS / streams))


@contextlib.asynccontextmanager
async def _ours(store: Store) -> AsyncIterator[Rate]:
    log = connect.make_log(Settings.load(store.settings))
    await log.open("benchmark")

    async def rate(streams: int) -> float:
        events = _events(streams, 20_000)
        return streams * events / await library.append_all(log, streams, events, PAYLOAD)

    try:
        yield rate
    finally:
        await log.aclose()


class _Peer:
    """The competitor in a process of its own."""

    def __init__(self, python: str, url: str) -> None:
        self._command = [python, str(Path(__file__).with_name("rates_peer.py")), url]
        self._process: asyncio.subprocess.Process | None = None
        self.failed = 0

    async def rate(self, streams: int) -> float:
        """Events per second that it has stored."""
        if self._process is None:
            pipe = asyncio.subprocess.PIPE
            self._process = await asyncio.create_subprocess_exec(
                *self._command, stdin=pipe, stdout=pipe
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        events = _events(streams, 6_000)
        self._process.stdin.write(f"{streams} {events}\n".encode())
        line = await asyncio.wait_for(self._process.stdout.readline(), 120)
        seconds, failed = line.split()
        self.failed += int(failed)
        return (streams * events - int(failed)) / float(seconds)

    async def aclose(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.kill()
            await self._process.wait()


def _plain(url: str) -> str:
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


async def _copy(url: str) -> float:
    """Rows of the event table's shape and key, by COPY."""
    connection = await asyncpg.connect(_plain(url))
    try:
        await connection.execute(
            "CREATE TABLE IF NOT EXISTS bulk (stream bytea, sequence bigint, epoch int,"
            " kind smallint, codec smallint, payload bytea, PRIMARY KEY (stream, sequence))"
        )
        streams = [os.urandom(16) for _ in range(256)]
        number, begin = 0, time.perf_counter()
        while (took := time.perf_counter() - begin) < _SECONDS:
            rows = [
                (stream, number + n, 1, 0, 0, PAYLOAD)
                for n in range(_BULK // len(streams))
                for stream in streams
            ]
            await connection.copy_records_to_table("bulk", records=rows)
            number += _BULK // len(streams)
        return number * len(streams) / took
    finally:
        await connection.close()


async def _xadd(url: str) -> float:
    """Entries of redis streams, by pipelines."""
    client = redis.asyncio.Redis.from_url(url)
    try:
        streams = [f"bulk:{os.urandom(8).hex()}" for _ in range(256)]
        number, begin = 0, time.perf_counter()
        while (took := time.perf_counter() - begin) < _SECONDS:
            async with client.pipeline(transaction=False) as pipeline:
                for n in range(_BULK // len(streams)):
                    for stream in streams:
                        pipeline.xadd(stream, {"e": 1, "k": 0, "p": PAYLOAD}, f"{number + n + 1}-0")
                await pipeline.execute()
            number += _BULK // len(streams)
        await client.delete(*streams)
        return number * len(streams) / took
    finally:
        await client.aclose()


def _line(name: str, streams: int, rates: dict[str, list[float]]) -> str:
    middle = {who: statistics.median(found) for who, found in rates.items() if found}
    ours = middle["ours"]
    parts = [f"{name:<15} {streams:>4} streams: ours {ours:>8,.0f}/s"]
    for who in ("peer", "driver"):
        if who in middle:
            parts.append(f"{who} {middle[who]:>8,.0f}/s (x {ours / middle[who]:.2f})")
    return ", ".join(parts)


async def _measure(store: Store, urls: dict[str, str], competitor: str | None) -> None:
    peer = _Peer(competitor, urls["peer"]) if competitor and "peer" in urls else None
    driver = urls.get("driver", "")
    async with _ours(store) as ours:
        for streams in _STREAMS:
            rates: dict[str, list[float]] = {"ours": [], "peer": [], "driver": []}
            for _ in range(_ROUNDS):
                rates["ours"].append(await ours(streams))
                if peer is not None:
                    rates["peer"].append(await peer.rate(streams))
                if driver:
                    bulk = _xadd if driver.startswith("redis") else _copy
                    rates["driver"].append(await bulk(driver))
            print(_line(store.name, streams, rates), flush=True)
    if peer is not None:
        print(f"{'':<15} the competitor's errors: {peer.failed}")
        await peer.aclose()


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.peers.rates")
    parser.add_argument("--store", action="append", choices=STORES)
    parser.add_argument("--competitor", metavar="PYTHON", help="measure mcp-persist as well")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rates-", ignore_cleanup_errors=True) as name:
        directory = Path(name)
        with fixtures() as fixture:
            for each in arguments.store or STORES:
                (directory / each).mkdir()
                store = STORES[each](directory / each, fixture)
                urls: dict[str, str] = {}
                if "redis" in each:
                    urls = {"peer": fixture("redis_url"), "driver": fixture("redis_url")}
                elif each == "postgres":
                    urls = {"peer": _plain(fixture("new_postgres")())}
                    urls["driver"] = fixture("new_postgres")()
                asyncio.run(_measure(store, urls, arguments.competitor))


if __name__ == "__main__":
    main()
