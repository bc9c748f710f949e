"""Every store keeps the contract, and ours what it leaves open."""

import asyncio
from typing import Any

import pytest
from sqlalchemy import text

from mcp_persist_middleware.log.base import EventLog
from mcp_persist_middleware.log.cursor import Cursor
from mcp_persist_middleware.log.reads import Reads
from mcp_persist_middleware.model import Event, EventKind, StreamState
from mcp_persist_middleware.stores.redis.log import RedisLog
from mcp_persist_middleware.stores.sql.log import SqlLog
from mcp_persist_middleware.testing.contract import StoreContract
from mcp_persist_middleware.testing.contract.builders import (
    COMMITTED,
    add,
    ending,
    events,
    new,
    numbers,
    record,
)
from mcp_persist_middleware.wakeups.base import Subscription
from tests.support.scripted import until
from tests.support.stores import Store


class TestEveryStore(StoreContract):
    """Its `make_log` is `conftest.py`'s: one store after the other."""


async def test_retention_leaves_no_event_that_no_stream_leads_to(
    log: EventLog, store: Store
) -> None:
    old = [record() for _ in range(20)]
    await log.append([new(s, *events(1, 7), ending=ending(7, expires_at=10.0)) for s in old])
    more = True
    while more:
        more = (await log.purge(10.5, 50)).more
        astray = "SELECT count(*) FROM mcp_event WHERE stream NOT IN (SELECT id FROM mcp_stream)"
        assert await store.rows(astray) == [(0,)]


LOCK = {
    "sqlite": "BEGIN IMMEDIATE",
    "postgresql": "DO $$ BEGIN LOCK mcp_event, mcp_stream NOWAIT; END $$",
}
"""A lock that nobody has who has come to an end."""


async def at_rest(log: EventLog) -> None:
    """Return when what was asked of the store has come to its end, also what was cancelled."""
    inner = log.inner if isinstance(log, RedisLog) else log
    if isinstance(inner, SqlLog):
        await until(lambda: not inner._running)
    await log.ping()


async def test_a_cancelled_append_is_whole_or_nothing_and_holds_no_lock(
    log: EventLog, store: Store
) -> None:
    outcomes = set()
    for turns in range(12):
        stream = record()
        batch = [new(stream, *events(1, 800), ending=ending(800))]
        task = asyncio.create_task(log.append(batch))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task], timeout=10)
        await at_rest(log)
        async with store.connected() as outside:
            await outside.execute(text(LOCK[outside.dialect.name]))
        found, held = await log.find(stream.id), await numbers(log, stream)
        assert (found is None and held == []) or (
            found is not None and found.state is StreamState.COMPLETE and len(held) == 800
        )
        outcomes.add(found is None)
        assert await log.append(batch) == [COMMITTED]
    assert True in outcomes  # cancelled before it had begun


async def test_how_much_there_is_of_a_stream_is_told_without_its_events(
    log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = record()
    sized = tuple(Event(n, 1, EventKind.MESSAGE, b"x" * n * 100) for n in range(1, 6))
    await log.append([new(stream, *sized)])
    await log.append([add(stream, *events(6, 1), trim=2)])
    size = sum(n * 100 for n in (3, 4, 5)) + len(events(6, 1)[0].frame)
    read: list[int] = []
    whole = log.read

    async def counted(*asked: Any) -> list[Event]:
        found = await whole(*asked)
        read.append(sum(len(event.frame) for event in found))
        return found

    monkeypatch.setattr(log, "read", counted)
    assert await log.written(stream.id) == (6, 4, size)
    assert await log.written(stream.id, 4) == (6, 2, 500 + len(events(6, 1)[0].frame))
    assert await log.written(stream.id, 6) == (6, 0, 0)
    assert await log.written(record().id) == (0, 0, 0)
    # Redis is asked for what only it has.
    assert not read or not isinstance(log, SqlLog)


async def test_with_every_wake_up_lost_every_event_arrives_all_the_same(
    log: EventLog, other: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Subscription, "notify", lambda _: None)
    # Whatever a transport grants, from the first wait on.
    monkeypatch.setattr(Subscription, "patience", property(lambda _: 0.1, lambda *_: None))
    stream = record()
    await log.append([new(stream)])
    cursor = Cursor(Reads(other), stream.id, 0, None, resumed=True)
    assert cursor.ready() is None
    numbers: list[int] = []

    async def read() -> None:
        while not (page := await cursor.next()).ended:
            numbers.extend(event.sequence for event in page.events)

    reading = asyncio.create_task(read())
    await until(lambda: cursor._subscription is not None)
    for number in range(1, 6):
        await log.append([add(stream, *events(number, 1))])
        async with asyncio.timeout(10):
            while len(numbers) < number:
                await asyncio.sleep(0.01)
    await log.append([add(stream, ending=ending(5))])
    async with asyncio.timeout(10):
        await reading
    assert numbers == [1, 2, 3, 4, 5]
    cursor.close()
