"""A commit in SQLite's thread: the event loop waits for it where that is short, and whoever is
cancelled meanwhile cancels nothing of it."""

import asyncio
import concurrent.futures
import sqlite3
import threading
from typing import Any, cast

import aiosqlite
import pytest

from mcp_persist_middleware.stores.sqlite import hold
from mcp_persist_middleware.stores.sqlite.drivers import submit


class Commit(concurrent.futures.Future[str]):
    """A commit that is done at once, or takes longer than the event loop waits."""

    was_waited_for = False
    is_slow = False

    def result(self, timeout: float | None = None) -> str:
        if timeout is not None:
            self.was_waited_for = True
            if self.is_slow:
                raise TimeoutError
        return super().result(timeout)


async def test_a_disk_that_is_slow_holds_the_event_loop_ever_more_seldom(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[Commit] = []

    def submitted(*_: Any) -> Commit:
        made.append(Commit())
        made[-1].is_slow = len(made) <= 12
        made[-1].set_result("committed")
        return made[-1]

    monkeypatch.setattr(hold, "submit", submitted)
    loop = hold.HeldLoop()
    for _ in range(24):
        assert await loop.run(cast("Any", None), lambda _: "") == "committed"
    waited = "".join("w" if commit.was_waited_for else "." for commit in made)
    assert waited == "w.w..w....w........wwwww", "longer and longer, and at once again"


async def test_a_commit_that_was_begun_runs_to_its_end_whoever_is_cancelled() -> None:
    driver, gate = await aiosqlite.connect(":memory:"), threading.Event()
    try:
        before = submit(driver, lambda _: gate.wait(10))
        done = submit(driver, _answer)
        waiting = asyncio.wrap_future(done)
        waiting.cancel()
        gate.set()
        assert await asyncio.wrap_future(before)
        assert await asyncio.wait_for(asyncio.wrap_future(done), 10) == 42
    finally:
        gate.set()
        await driver.close()


async def test_what_a_commit_raises_its_caller_hears() -> None:
    driver = await aiosqlite.connect(":memory:")
    try:
        with pytest.raises(sqlite3.OperationalError, match="no such table"):
            await hold.HeldLoop().run(driver, lambda raw: raw.execute("SELECT 1 FROM nowhere"))
        assert await hold.HeldLoop().run(driver, _answer) == 42
    finally:
        await driver.close()


def _answer(raw: sqlite3.Connection) -> int:
    answer: int = raw.execute("SELECT 42").fetchone()[0]
    return answer
