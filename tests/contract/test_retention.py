"""Retention by itself, on every store: a worker's keeper removes what has expired."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import pytest

from mcp_persist_middleware.errors import StoreError
from mcp_persist_middleware.log.base import EventLog, Purged
from mcp_persist_middleware.log.clock import Timed
from mcp_persist_middleware.maintenance import retention
from mcp_persist_middleware.maintenance.retention import RetentionLoop
from mcp_persist_middleware.model import StreamRecord
from mcp_persist_middleware.settings import Settings
from mcp_persist_middleware.testing.contract.builders import ending, events, new, numbers, record

pytestmark = pytest.mark.timeout(60)
_NEVER = 3600.0


@contextlib.asynccontextmanager
async def running(made: RetentionLoop) -> AsyncIterator[None]:
    """A keeper that runs meanwhile."""
    task = asyncio.create_task(made.run())
    try:
        async with asyncio.timeout(30):
            yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def old_streams(log: EventLog, streams: int, length: int) -> list[StreamRecord]:
    """Streams whose time is over."""
    made = [record() for _ in range(streams)]
    for stream in made:
        over = ending(length, expires_at=1.0)
        await log.append([new(stream, *events(1, length), ending=over)])
    return made


def settings(**more: float) -> Settings:
    return Settings.load({"url": "unused.db", **more}, {})


async def test_a_round_goes_on_until_nothing_that_has_expired_is_left(log: EventLog) -> None:
    fresh = record()
    await log.append([new(fresh, *events(1, 3), ending=ending(3, expires_at=time.time() + 99))])
    await old_streams(log, 120, 20)
    done = asyncio.Event()

    async def chore() -> None:
        done.set()

    async with running(RetentionLoop(log, settings(purge_interval=_NEVER), chore)):
        await done.wait()
    purged = await log.purge(2.0, 10)
    assert (purged.streams, purged.events, purged.more) == (0, 0, False), "all of it is gone"
    assert await numbers(log, fresh) == [1, 2, 3]


async def test_a_long_backlog_keeps_nothing_else_from_being_done_and_goes_without_a_rest(
    log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "_ROUND_SECONDS", 0.0)
    monkeypatch.setattr(retention, "_FIRST", 10)
    monkeypatch.setattr(retention, "_MOST", 10)
    await old_streams(log, 6, 20)
    left: list[bool] = []
    done = asyncio.Event()

    async def chore() -> None:
        left.append((await log.purge(2.0, 1)).more)
        if not left[-1]:
            done.set()

    async with running(RetentionLoop(log, settings(purge_interval=_NEVER), chore)):
        await done.wait()
    assert left[0], "the first chore did not wait for the end of the backlog"


class Slow(Timed):
    """A log whose store takes so long (seconds) for each event, and is asked for no longer than
    0.1 s; a real one does the work."""

    def __init__(self, log: EventLog, seconds: float) -> None:
        self._log, self._seconds = log, seconds
        self.asked: list[int] = []

    async def purge(self, now: float, max_events: int) -> Purged:
        self.asked.append(max_events)
        if max_events * self._seconds > 0.1:
            raise StoreError(url="it", reason="no answer in 0.1 s")
        await asyncio.sleep(max_events * self._seconds)
        return await self._log.purge(now, max_events)


async def test_a_step_that_was_too_much_for_the_store_becomes_smaller(log: EventLog) -> None:
    old = await old_streams(log, 3, 20)
    slow = Slow(log, 0.01)
    async with running(RetentionLoop(slow, settings(purge_interval=0.05))):  # type: ignore[arg-type]
        for stream in old:
            while await log.find(stream.id) is not None:
                await asyncio.sleep(0.02)
    assert slow.asked[:2] == [500, 62]
    assert max(slow.asked[2:]) < 10


async def test_steps_grow_with_what_there_is_to_remove(
    log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "_FIRST", 10)
    monkeypatch.setattr(retention, "_STEP_SECONDS", 10.0)
    await old_streams(log, 10, 100)
    quick = Slow(log, 0.0)
    done = asyncio.Event()

    async def chore() -> None:
        done.set()

    made = RetentionLoop(quick, settings(purge_interval=_NEVER), chore)  # type: ignore[arg-type]
    async with running(made):
        await done.wait()
    assert quick.asked[:4] == [10, 20, 40, 80]
    assert len(quick.asked) < 12


@pytest.mark.parametrize("error", [StoreError(url="it", reason="damaged"), KeyError("hunter2")])
async def test_a_purge_that_fails_keeps_no_chore_from_being_done_nor_one_chore_the_next(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    class Damaged:
        async def purge(self, *_: object) -> Purged:
            raise error

    done = asyncio.Event()

    async def fails() -> None:
        raise error

    async def touch() -> None:
        done.set()

    made = RetentionLoop(Damaged(), settings(purge_interval=_NEVER), fails, touch)  # type: ignore[arg-type]
    async with running(made):
        await done.wait()
    assert "hunter2" not in caplog.text
