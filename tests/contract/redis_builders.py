"""Logs on SQLite behind a Redis of the test's own, and what a worker leaves that is gone."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis

from mcp_persist_middleware.model import StreamRecord
from mcp_persist_middleware.settings import Settings
from mcp_persist_middleware.stores import connect
from mcp_persist_middleware.stores.redis.log import RedisLog
from tests.contract.sqlite import direct
from tests.support.scripted import until
from tests.support.stores import RedisServer


@dataclass
class Place:
    """A SQLite file and a Redis server, and the workers on them."""

    directory: Path
    server: RedisServer
    settings: dict[str, Any] = field(default_factory=dict)

    def make(self, **more: Any) -> RedisLog:
        """A log, not open."""
        given = {"url": str(self.directory / "events.db"), "redis": self.server.url()}
        log = connect.make_log(Settings.load(given | self.settings | more))
        assert isinstance(log, RedisLog)
        return log

    @asynccontextmanager
    async def worker(self, name: str, **more: Any) -> AsyncIterator[RedisLog]:
        """An open log."""
        log = self.make(**more)
        await log.open(name)
        try:
            yield log
        finally:
            await log.aclose()

    @property
    def client(self) -> redis.Redis:
        """A plain client."""
        return redis.Redis(port=self.server.port)

    def left(self, *kinds: str) -> list[bytes]:
        """The keys that do not expire by themselves: `h` hashes, `c` chunks."""
        ends = tuple(f":{kind}".encode() for kind in kinds or ("h", "c"))
        with contextlib.closing(self.client) as client:
            return [k for k in client.scan_iter() if k.endswith(ends) and client.pttl(k) < 0]

    def in_sql(self, stream: StreamRecord) -> list[int]:
        """The numbers that SQL alone has."""
        with direct(self.directory / "events.db") as outside:
            rows = outside.execute(
                "SELECT sequence FROM mcp_event WHERE stream = ? ORDER BY sequence", [stream.id]
            )
            return [row[0] for row in rows]

    @contextmanager
    def sql_locked(self) -> Iterator[None]:
        """SQL can be read and not written."""
        with direct(self.directory / "events.db") as outside:
            outside.execute("PRAGMA busy_timeout = 5000")
            outside.execute("BEGIN IMMEDIATE")
            try:
                yield
            finally:
                outside.execute("ROLLBACK")

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Redis stands still."""
        assert self.server.process is not None
        os.kill(self.server.process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.server.process.pid, signal.SIGCONT)


async def read_all(log: RedisLog, stream: StreamRecord) -> list[tuple[int, int]]:
    """Number and epoch of every event, as a reader gets them: page after page."""
    found: list[tuple[int, int]] = []
    while page := await log.read(stream.id, found[-1][0] if found else 0, 256, 1 << 20):
        found += [(event.sequence, event.epoch) for event in page]
    return found


async def flushed(log: RedisLog) -> None:
    """SQL has all that this worker wrote."""
    await until(lambda: log._buffers.events == 0)


async def is_up(log: RedisLog) -> None:
    """This worker uses Redis."""
    await until(lambda: log._client.is_up)


def hold_back(log: RedisLog) -> None:
    """Nothing is flushed any more unless somebody asks for it."""
    log._tasks[0].cancel()


async def die(log: RedisLog) -> None:
    """The process is gone: its memory, and everything that ran there."""
    for task in (*log._tasks, *log._running):
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    log._tasks = []
    log._buffers.clear()
