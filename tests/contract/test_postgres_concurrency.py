"""PostgreSQL: statements that meet. Each sees what was committed when it began, so what they lock
decides; the tests hold the other's transaction open until the one under test waits for it."""

import asyncio
import secrets
import time
from pathlib import Path

import pytest

from mcp_persist_middleware.errors import StoreError
from mcp_persist_middleware.log.base import EventLog
from mcp_persist_middleware.model import (
    EnqueueResult,
    RelayState,
    RelayStatus,
    StreamState,
    StreamWrite,
)
from mcp_persist_middleware.stores.postgres import batch as postgres_batch
from mcp_persist_middleware.stores.postgres.inbox import PostgresInbox, ShortWay
from mcp_persist_middleware.stores.postgres.log import PostgresLog
from mcp_persist_middleware.testing.contract.builders import (
    COMMITTED,
    FENCED,
    KEY,
    REJECTED,
    add,
    begin_session,
    claim,
    ending,
    events,
    new,
    numbers,
    record,
    relayed,
)
from tests.contract.postgres import somebody, waits_for_a_lock
from tests.support.packaged import PACKAGED, marked
from tests.support.stores import STORES, Store

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(params=["postgres", *marked("postgres15+tls", "pgbouncer")])
def store(tmp_path: Path, request: pytest.FixtureRequest) -> Store:
    """A database of this test's own."""
    return (STORES | PACKAGED)[request.param](tmp_path, request.getfixturevalue)


async def appended(connection: object, log: PostgresLog, *entries: StreamWrite) -> None:
    """What an append of another worker does, in a transaction that is already open."""
    batch = postgres_batch.PostgresBatch(log._statements, connection)
    assert len(await batch._together(entries)) == len(entries)


ENTRIES = pytest.mark.parametrize("more", [{}, {"ending": ending(2)}], ids=["plain", "ending"])


@ENTRIES
async def test_an_append_that_meets_a_takeover_waits_and_is_fenced(
    log: EventLog, store: Store, more: dict[str, object]
) -> None:
    stream, good = record(), record()
    await log.append([new(stream, *events(1, 1)), new(good)])
    async with somebody(store) as them:
        await them.execute("BEGIN")
        await them.execute("UPDATE mcp_stream SET epoch = 2 WHERE id = $1", stream.id)
        batch = [add(stream, *events(2, 1), **more), add(good, *events(1, 1))]
        append = asyncio.create_task(log.append(batch))
        await waits_for_a_lock(them)
        await them.execute("COMMIT")
    assert await append == [FENCED, COMMITTED]
    assert await numbers(log, stream) == [1]
    assert await numbers(log, good) == [1]


async def test_an_append_that_meets_a_takeover_that_fails_is_committed(
    log: EventLog, store: Store
) -> None:
    stream = record()
    await log.append([new(stream)])
    async with somebody(store) as them:
        await them.execute("BEGIN")
        await them.execute("UPDATE mcp_stream SET epoch = 2 WHERE id = $1", stream.id)
        append = asyncio.create_task(log.append([add(stream, *events(1, 1))]))
        await waits_for_a_lock(them)
        await them.execute("ROLLBACK")
    assert await append == [COMMITTED]


@pytest.mark.parametrize("last", [0, 1])
async def test_a_takeover_that_meets_an_append_waits_and_does_not_end_below_it(
    log: EventLog, other: PostgresLog, store: Store, last: int
) -> None:
    stream = record()
    await log.append([new(stream, *events(1, 1))])
    late = add(stream, epoch=2, takes_over=1, ending=ending(1))
    async with somebody(store) as them:
        await them.execute("BEGIN")
        await appended(them, other, add(stream, *events(2, 1)))
        takeover = asyncio.create_task(other.append([late]))
        await waits_for_a_lock(them)
        await them.execute("COMMIT" if last else "ROLLBACK")
    assert await takeover == [FENCED if last else COMMITTED]
    found = await log.find(stream.id)
    assert found is not None
    if last:
        # Whoever looks again knows of it.
        assert (found.state, found.epoch) == (StreamState.OPEN, 1)
        again = add(stream, epoch=2, takes_over=1, ending=ending(2))
        assert await other.append([again]) == [COMMITTED]
        found = await log.find(stream.id)
        assert found is not None
    assert found.last_sequence == len(await numbers(log, stream)) == 1 + last


async def test_a_takeover_with_an_error_of_its_own_does_not_count_an_event_twice(
    log: EventLog, other: PostgresLog, store: Store
) -> None:
    stream = record()
    await log.append([new(stream)])
    late = add(stream, *events(1, 1, epoch=2), epoch=2, takes_over=1, ending=ending(1))
    async with somebody(store) as them:
        await them.execute("BEGIN")
        await appended(them, other, add(stream, *events(1, 3)))
        takeover = asyncio.create_task(other.append([late]))
        await waits_for_a_lock(them)
        await them.execute("COMMIT")
    assert await takeover == [FENCED]
    assert await numbers(log, stream) == [1, 2, 3]


async def test_a_request_that_meets_a_move_is_not_left_with_the_old_home(
    log: PostgresLog, store: Store
) -> None:
    await begin_session(log)
    async with somebody(store) as them:
        await them.execute("BEGIN")
        await them.execute("UPDATE mcp_session SET generation = 2, home = 'two'")
        sent = relayed()
        put = asyncio.create_task(log.inbox.put(sent, 10))
        await waits_for_a_lock(them)
        await them.execute("COMMIT")
    assert await put is EnqueueResult.MOVED
    assert await log.inbox.look(sent.name) is None


async def test_who_waits_for_a_move_keeps_no_other_request_back(
    log: PostgresLog, store: Store
) -> None:
    other = KEY._replace(id="other")
    await begin_session(log)
    await begin_session(log, other)
    meant, others = relayed(), [relayed(key=other) for _ in range(3)]
    taken = relayed(key=other)
    assert await log.inbox.tombstone(taken.name, time.time() + 60)
    async with somebody(store) as them:
        await them.execute("BEGIN")
        await them.execute("UPDATE mcp_session SET generation = 2 WHERE id = $1", KEY.id)
        # All in one statement.
        together = [meant, *others, taken]
        puts = [asyncio.create_task(log.inbox.put(each, 10)) for each in together]
        async with asyncio.timeout(10):
            assert await asyncio.gather(*puts[1:4]) == [EnqueueResult.ENQUEUED] * 3
            with pytest.raises(StoreError):
                await puts[4]
        await waits_for_a_lock(them)
        await them.execute("ROLLBACK")
    assert await puts[0] is EnqueueResult.ENQUEUED
    assert {each.id for each in await claim(log, "one")} == {meant.id, *(o.id for o in others)}


async def test_of_requests_that_are_put_together_as_many_wait_as_may(log: PostgresLog) -> None:
    await begin_session(log)
    await log.inbox.put(relayed(), 5)
    puts = [asyncio.create_task(log.inbox.put(relayed(), 5)) for _ in range(8)]
    found = await asyncio.gather(*puts)
    assert found == [EnqueueResult.ENQUEUED] * 4 + [EnqueueResult.FULL] * 4


async def test_a_move_that_meets_a_request_takes_it_along(
    log: PostgresLog, other: PostgresLog, store: Store
) -> None:
    await begin_session(log)
    sent = relayed()
    async with somebody(store) as them:
        await them.execute("BEGIN")

        async def here(work):  # type: ignore[no-untyped-def]
            return await work(them)

        way = ShortWay(log._statements, here, log.wakeups, log._running, 5.0, TimeoutError)
        inbox = PostgresInbox(log, way)
        assert await inbox.put(sent, 10) is EnqueueResult.ENQUEUED
        move = asyncio.create_task(other.sessions.move(KEY, 1, "two"))
        await waits_for_a_lock(them)
        await them.execute("COMMIT")
    assert await move
    assert await claim(log, "one") == []
    (got,) = await claim(other, "two")
    assert (got.id, got.generation) == (sent.id, 2)
    assert await log.inbox.look(sent.name) == RelayStatus(RelayState.CLAIMED, "two", b"")


async def test_a_request_that_somebody_is_taking_is_not_waited_for(
    log: PostgresLog, store: Store
) -> None:
    await begin_session(log)
    one, two = sorted((relayed(), relayed()), key=lambda each: each.id)
    for each in (one, two):
        await log.inbox.put(each, 10)
    async with somebody(store) as them:
        await them.execute("BEGIN")
        await them.execute("UPDATE mcp_inbox SET state = 1 WHERE id = $1", one.id)
        async with asyncio.timeout(1):
            assert [each.id for each in await claim(log, "one")] == [two.id]
        await them.execute("ROLLBACK")
    assert [each.id for each in await claim(log, "one")] == [one.id]


async def test_retention_leaves_a_stream_alone_that_is_just_written_to(
    log: PostgresLog, store: Store
) -> None:
    stream, done = record(session="gone"), record(session="gone")
    await log.append([new(stream, *events(1, 2)), new(done, *events(1, 2), ending=ending(2))])
    await log.expire_session("default", "/mcp", "gone")
    async with somebody(store) as them:
        await them.execute("BEGIN")
        await appended(them, log, add(stream, *events(3, 1)))
        purged = await log.purge(1.0, 100)
        assert (purged.streams, purged.events) == (1, 2)
        await them.execute("COMMIT")
    purged = await log.purge(1.0, 100)
    assert (purged.streams, purged.events) == (1, 3)
    assert await store.rows("SELECT count(*) FROM mcp_event") == [(0,)]


@pytest.mark.parametrize("how", ["renew_readers", "forget"])
async def test_two_who_change_the_same_rows_do_not_wait_for_each_other(
    log: EventLog, other: EventLog, store: Store, how: str
) -> None:
    low, high = sorted((record(), record()), key=lambda stream: stream.id)
    for stream in (high, low):  # as they lie in the table
        await log.append([new(stream)])
    async with somebody(store) as them:
        await them.execute("BEGIN")
        await them.execute("UPDATE mcp_stream SET reader_until = 1 WHERE id = $1", high.id)
        if how == "renew_readers":
            change = asyncio.create_task(other.renew_readers([high.id, low.id], 60))
        else:
            change = asyncio.create_task(other.expire_session("default", "/mcp", "s"))
        await waits_for_a_lock(them)
        append = asyncio.create_task(log.append([add(s, *events(1, 1)) for s in (high, low)]))
        await waits_for_a_lock(them, 2)
        await them.execute("COMMIT")
    # A ring is found, and broken, after a second: by then both are through.
    async with asyncio.timeout(0.9):
        await change
        assert await append == [COMMITTED] * 2


async def test_an_append_that_takes_too_long_is_an_error_and_leaves_nothing_behind(
    log: PostgresLog, store: Store
) -> None:
    stream = record()
    await log.append([new(stream)])
    async with somebody(store) as them:
        await them.execute("BEGIN")
        await them.execute("LOCK mcp_event")
        began = time.monotonic()
        with pytest.raises(StoreError, match="no answer"):
            await log.append([add(stream, *events(1, 1))])
        assert time.monotonic() - began < 5.0, "there is time for another attempt"
        with pytest.raises(StoreError, match="no answer"):
            await log.purge(10.0**12, 100) and await log.append([add(stream, *events(1, 1))])
        await them.execute("COMMIT")
        idle = "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'"
        assert await them.fetchval(idle) == 0
    assert await log.append([add(stream, *events(1, 1))]) == [COMMITTED]
    assert await numbers(log, stream) == [1]


async def test_cancelled_reads_leave_no_connection_in_use(log: PostgresLog) -> None:
    stream = record()
    await log.append([new(stream, *events(1, 200))])
    for turns in range(40):
        tasks = [
            asyncio.create_task(log.read(stream.id, 0, 200, 1 << 20)),
            asyncio.create_task(log.sessions.find(KEY)),
            asyncio.create_task(log.renew_readers([stream.id], 60)),
        ]
        for _ in range(turns):
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    async with asyncio.timeout(5):
        while log._running:
            await asyncio.sleep(0.01)
    pool = log._engine.sync_engine.pool
    assert pool.checkedout() == 2, "the writer and the wake-ups"
    assert len(await log.read(stream.id, 0, 200, 1 << 20)) == 200


async def test_a_stream_whose_session_fits_no_index_is_rejected_alone(log: EventLog) -> None:
    good, bad = record(), record(session=secrets.token_hex(8000))
    batch = [new(good, *events(1, 1)), new(bad, *events(1, 1))]
    assert await log.append(batch) == [COMMITTED, REJECTED]
    assert await numbers(log, good) == [1]
