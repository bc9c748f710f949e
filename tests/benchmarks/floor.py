"""The commit floor: what no write-through layer on SQLite can go below on this machine, now.

One row, one commit, on a bare `sqlite3` connection in a thread of its own: one hop there, one back.
"""

import asyncio
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import SimpleQueue
from statistics import median
from typing import Any

from tests.benchmarks.contenders import Contender

PAYLOAD = (
    b'event: message\r\ndata: {"jsonrpc":"2.0","method":"notifications/progress","params":'
    b'{"progressToken":1,"progress":12,"total":300,"message":"1234567890123456"}}\r\n'
)
_INSERT = "INSERT INTO event VALUES (?, ?, ?, ?, ?, ?)"
Row = tuple[bytes, int, int, int, int, bytes]


class BareDriver:
    """An event table of the same shape as ours on a bare connection, one thread hop away."""

    def __init__(self, path: Path, synchronous: str) -> None:
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute(f"PRAGMA synchronous={synchronous}")
        self._connection.execute(
            "CREATE TABLE IF NOT EXISTS event (stream BLOB, sequence INTEGER, epoch INTEGER,"
            " kind INTEGER, codec INTEGER, payload BLOB, PRIMARY KEY (stream, sequence))"
            " WITHOUT ROWID"
        )
        self._sequence = 0
        self._stream = os.urandom(16)
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            call()

    async def _hop(self, work: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Any] = loop.create_future()

        def call() -> None:
            work()
            loop.call_soon_threadsafe(done.set_result, None)

        self._calls.put(call)
        await done

    async def commit_one(self) -> None:
        """One row, one commit."""
        self._sequence += 1
        row = (self._stream, self._sequence, 1, 0, 0, PAYLOAD)

        def work() -> None:
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.execute(_INSERT, row)
            self._connection.execute("COMMIT")

        await self._hop(work)

    async def commit_many(self, rows: Sequence[Row]) -> None:
        """Many rows by `executemany`, one commit."""

        def work() -> None:
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.executemany(_INSERT, rows)
            self._connection.execute("COMMIT")

        await self._hop(work)

    def close(self) -> None:
        """End the thread and the connection."""
        self._calls.put(None)
        self._thread.join()
        self._connection.close()


async def floor_ms(driver: BareDriver, commits: int, pause: float) -> float:
    """The median time of one commit in milliseconds, with a pause before each.

    A layer in front of an application never commits in a tight loop; a processor that was idle
    for the length of the pause is slower, for it as for us.
    """
    took = []
    for _ in range(commits):
        await asyncio.sleep(pause)
        begin = time.perf_counter()
        await driver.commit_one()
        took.append((time.perf_counter() - begin) * 1e3)
    return median(took)


class Floors:
    """The floor beside each round of a contender on SQLite."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._taken: dict[Contender, list[float]] = {}

    async def take(self, contender: Contender, commits: int, pause: float) -> None:
        """Measure it now, in the mode of this contender if it has one."""
        if contender.synchronous is None:
            return
        driver = BareDriver(
            self._directory / f"floor-{contender.synchronous}.db", contender.synchronous
        )
        try:
            took = await floor_ms(driver, commits, pause)
        finally:
            driver.close()
        self._taken.setdefault(contender, []).append(took)

    def medians(self) -> dict[Contender, float]:
        """Of the rounds that count."""
        return {who: median(took[1:]) for who, took in self._taken.items()}
