"""What many relayed requests do at the same moment is done together, and is no harm to the others:
not to those of the same step, not to readers, and not to whoever waits."""

import asyncio
import os
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url

from mcp_persist_middleware.errors import StoreError
from mcp_persist_middleware.log.base import EventLog
from mcp_persist_middleware.stores.postgres.log import PostgresLog
from mcp_persist_middleware.stores.sqlite import connections
from mcp_persist_middleware.testing.contract.builders import (
    KEY,
    begin_session,
    claim,
    events,
    new,
    record,
    relayed,
)
from tests.contract.postgres import somebody, waits_for_a_lock
from tests.contract.sqlite import direct
from tests.support.scripted import until
from tests.support.stores import STORES, Store

on_postgres = pytest.mark.parametrize("kind", ["postgres"])
on_sqlite = pytest.mark.parametrize("kind", ["sqlite"])


@pytest.fixture
def store(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> Store:
    """A store of this test's own."""
    return STORES[kind](tmp_path, request.getfixturevalue)


@on_postgres
async def test_small_answers_do_not_fail_with_large_ones(log: EventLog) -> None:
    await begin_session(log)
    sent = [relayed() for _ in range(40)]
    for each in sent:
        await log.inbox.put(each, 1000)
    assert len(await claim(log, "one")) == 40
    large, later = os.urandom(1 << 20) * 32, time.time() + 60
    replies = [large] * 4 + [b"small"] * 36
    answers = [
        asyncio.create_task(log.inbox.answer(each.id, "one", reply, later))
        for each, reply in zip(sent, replies, strict=True)
    ]
    assert await asyncio.gather(*answers[4:]) == [True] * 36
    await asyncio.gather(*answers[:4], return_exceptions=True)
    looks = await asyncio.gather(*[log.inbox.look(each.name) for each in sent[4:]])
    assert [look.reply for look in looks if look is not None] == [b"small"] * 36


@on_sqlite
async def test_readers_read_while_somebody_holds_the_write_lock_and_many_wait_for_it(
    log: EventLog, store: Store
) -> None:
    await begin_session(log)
    stream = record()
    await log.append([new(stream, *events(1, 3))])
    with direct(Path(make_url(store.url).database or "")) as them:
        them.execute("BEGIN IMMEDIATE")
        puts: list[asyncio.Task[object]] = []
        for _ in range(4):
            puts += [asyncio.create_task(log.inbox.put(relayed(), 1000)) for _ in range(40)]
            await asyncio.wait(puts, timeout=0.5)
        told = await asyncio.gather(*puts, return_exceptions=True)
        assert {type(each) for each in told} == {StoreError}
        # Whoever has been told that it was too late keeps no connection from the readers.
        for _ in range(20):
            assert len(await log.read(stream.id, 0, 10, 1 << 20)) == 3
        them.execute("ROLLBACK")
    late = relayed()
    await log.inbox.put(late, 1000)
    assert late.id in [each.id for each in await claim(log, "one")]


@on_postgres
async def test_nobody_waits_longer_than_the_store_may_take(log: EventLog, store: Store) -> None:
    await begin_session(log)
    loop, took = asyncio.get_running_loop(), list[float]()
    async with somebody(store) as them:
        await them.execute("BEGIN")
        await them.execute("LOCK mcp_session IN ACCESS EXCLUSIVE MODE")
        began = loop.time()

        async def find() -> None:
            with pytest.raises(StoreError):
                await log.sessions.find(KEY)
            took.append(loop.time() - began)

        await asyncio.gather(*[find() for _ in range(1500)])
        await them.execute("ROLLBACK")
    # Steps of 2 s each would be six, one behind the other.
    assert max(took) < 8


@on_postgres
async def test_answers_and_what_says_that_they_still_run_do_not_wait_for_each_other(
    log: EventLog, store: Store
) -> None:
    await begin_session(log)
    running = sorted((relayed() for _ in range(300)), key=lambda each: each.id)
    low, high, later = running[0], running[-1], time.time() + 60
    for each in reversed(running):  # as they lie in the table
        await log.inbox.put(each, 1000)
    async with somebody(store) as them:
        await them.execute("UPDATE mcp_inbox SET state = 1")
        await them.execute("VACUUM ANALYZE mcp_inbox")
        await them.execute("BEGIN")
        await them.execute("UPDATE mcp_inbox SET sealed = sealed WHERE id = $1", high.id)
        renewal = asyncio.create_task(log.inbox.renew("one", [e.id for e in running], later))
        await waits_for_a_lock(them)
        answers = asyncio.gather(
            *[log.inbox.answer(each.id, "one", b"done", later) for each in (high, low)]
        )
        await waits_for_a_lock(them, 2)
        await them.execute("COMMIT")
    # A ring of locks would be an error of one of them.
    assert len(await renewal) == 300
    assert await answers == [True, True]


@on_postgres
@pytest.mark.parametrize("size", [10, 100_000])
async def test_a_request_that_is_taken_back_while_it_waits_for_its_turn_is_not_enqueued(
    log: PostgresLog, size: int
) -> None:
    await begin_session(log)
    mine, go_on, held = relayed(content=b"x" * size), asyncio.Event(), list[Any]()

    async def hold(driver: Any) -> None:
        held.append(driver)
        await go_on.wait()

    # Nobody has a turn.
    holding = [asyncio.create_task(log.raw(hold)) for _ in range(4)]
    await until(lambda: len(held) == 4)
    puts = list[asyncio.Task[Any]]()
    for request in (relayed(), relayed(), mine):
        # Each of the two before it is a step of its own.
        puts.append(asyncio.create_task(log.inbox.put(request, 100)))
        for _ in range(5):
            await asyncio.sleep(0)
    *first, put = puts
    put.cancel()
    await asyncio.wait([put])
    go_on.set()
    await asyncio.gather(*holding, *first)
    await until(lambda: not len(log._running))
    assert not await log.inbox.withdraw(mine.name), "it was never there"
    assert mine.id not in [each.id for each in await claim(log, "one")]


@on_postgres
@pytest.mark.parametrize("size", [10, 100_000])
async def test_an_answer_of_somebody_who_is_cancelled_is_stored_and_wakes_its_sender(
    log: PostgresLog, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    await begin_session(log)
    sent, told = relayed(), list[bytes]()
    await log.inbox.put(sent, 100)
    assert len(await claim(log, "one")) == 1
    monkeypatch.setattr(log._wakeups, "publish", told.extend)
    reply = b"x" * size
    answering = asyncio.create_task(log.inbox.answer(sent.id, "one", reply, time.time() + 60))
    await asyncio.sleep(0)
    answering.cancel()
    await asyncio.wait([answering])
    await until(lambda: not len(log._running))
    status = await log.inbox.look(sent.name)
    assert status is not None
    assert status.reply == reply
    assert told == [sent.id]


@on_sqlite
async def test_one_answer_that_fills_the_disk_is_no_error_of_the_others(
    log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    await begin_session(log)
    sent = [relayed() for _ in range(20)]
    for each in sent:
        await log.inbox.put(each, 1000)
    assert len(await claim(log, "one")) == 20
    transaction = connections._transaction

    def nearly_full(works: Any, raw: sqlite3.Connection) -> list[Any]:
        (pages,) = raw.execute("PRAGMA page_count").fetchone()
        raw.execute(f"PRAGMA max_page_count = {pages + 64}")
        return transaction(works, raw)

    monkeypatch.setattr(connections, "_transaction", nearly_full)
    replies = [b"small"] * 10 + [os.urandom(1 << 20)] + [b"small"] * 9
    later = time.time() + 60
    answers = [log.inbox.answer(e.id, "one", r, later) for e, r in zip(sent, replies, strict=True)]
    found = await asyncio.gather(*answers, return_exceptions=True)
    assert "make room on its disk" in str(found.pop(10))
    assert found == [True] * 19


@on_postgres
@pytest.mark.parametrize("bad", ["\ud800", "a\0b", "\uffff", "x" * 100_000])
async def test_one_that_cannot_be_asked_for_is_no_error_of_the_others(
    log: EventLog, bad: str
) -> None:
    await begin_session(log)
    keys = [KEY, KEY._replace(path="/" + bad), KEY, KEY._replace(id=bad), KEY]
    found = await asyncio.gather(*map(log.sessions.find, keys), return_exceptions=True)
    assert [getattr(each, "key", None) for each in found[::2]] == [KEY] * 3
