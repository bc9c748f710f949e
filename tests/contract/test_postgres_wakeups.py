"""PostgreSQL's own wake-ups: LISTEN and NOTIFY, which carry a number at most, cost a writer nothing
and may all be lost."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mcp_persist_middleware.log.base import EventLog
from mcp_persist_middleware.log.cursor import Cursor
from mcp_persist_middleware.log.reads import Reads
from mcp_persist_middleware.stores.postgres.log import PostgresLog
from mcp_persist_middleware.testing.contract.builders import (
    add,
    events,
    new,
    record,
    settle,
    subscribed,
)
from tests.contract.postgres import somebody, subscribers
from tests.support.packaged import PACKAGED, marked
from tests.support.scripted import until
from tests.support.stores import STORES, Store

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(params=["postgres", *marked("postgres15+tls", "pgbouncer")])
def store(tmp_path: Path, request: pytest.FixtureRequest) -> Store:
    """A database of this test's own."""
    return (STORES | PACKAGED)[request.param](tmp_path, request.getfixturevalue)


@pytest.fixture
async def heard(store: Store, log: EventLog, other: EventLog) -> AsyncIterator[list[str]]:
    """Everything that is said on the channel."""
    said: list[str] = []
    async with somebody(store) as them:
        await them.add_listener("mcp_wake", lambda *args: said.append(args[3]))
        yield said


def told(heard: list[str]) -> list[str]:
    """What somebody told of commits."""
    return [payload for payload in heard if payload.startswith("t")]


async def test_a_commit_to_another_stream_wakes_nobody(
    log: PostgresLog, other: PostgresLog, heard: list[str]
) -> None:
    stream, busy = record(), record()
    await log.append([new(stream), new(busy)])
    with subscribed(other, stream) as subscription, subscribed(other, busy) as witness:
        await settle(witness)
        await settle(subscription)
        for number in range(1, 10):
            await log.append([add(busy, *events(number, 1))])
            await witness.wait()
        assert not subscription._notified


async def test_while_nobody_reads_elsewhere_nothing_is_told(
    log: PostgresLog, other: PostgresLog, heard: list[str]
) -> None:
    stream, wanted = record(), record()
    await log.append([new(stream, *events(1, 1)), new(wanted)])
    with subscribed(log, stream), subscribed(other, wanted) as witness:
        await settle(witness)
        for number in range(2, 10):
            await log.append([add(stream, *events(number, 1))])
        await log.append([add(wanted, *events(1, 1))])
        await witness.wait()
        await until(lambda: bool(told(heard)))
    for payload in told(heard):
        assert len([each for each in payload.split() if each[0] != "#"]) == 2, "the other's topic"


async def test_who_asks_just_after_a_commit_is_told_of_it(
    log: PostgresLog, other: PostgresLog, heard: list[str]
) -> None:
    stream = record()
    await log.append([new(stream, *events(1, 1))])
    assert not told(heard)
    with subscribed(other, stream) as subscription:
        await subscription.wait()  # its first look, before its question has arrived
        await until(lambda: bool(told(heard)))
        async with asyncio.timeout(5):
            await subscription.wait()


async def test_many_topics_share_messages_that_postgres_takes(
    log: PostgresLog, other: PostgresLog, heard: list[str]
) -> None:
    streams = [record() for _ in range(1500)]
    subscriptions = [other.wakeups.subscribe(stream.id) for stream in streams]
    await until(lambda: len(log.wakeups._wanted) == 1500)
    for subscription in subscriptions:
        await settle_one(subscription)
    await log.append([new(stream) for stream in streams])
    await until(lambda: all(subscription._notified for subscription in subscriptions))
    assert 1500 * 25 / 8000 < len(told(heard)) < 20
    assert max(map(len, heard)) < 8000
    for subscription in subscriptions:
        subscription.close()
    assert not other.wakeups._subscriptions


async def test_many_who_wait_for_nothing_ask_the_store_seldom(log: PostgresLog) -> None:
    subscriptions = [log.wakeups.subscribe(record().id) for _ in range(5000)]
    assert subscriptions[0].patience == 1.0
    assert sum(1 / each.patience for each in subscriptions) < 1000
    for subscription in subscriptions:
        subscription.close()


async def settle_one(subscription: object) -> None:
    """Take the wake-up that every subscription begins with."""
    subscription._notified = False  # type: ignore[attr-defined]


async def test_wants_and_commits_are_forgotten_in_time_and_bounded(
    log: PostgresLog, other: PostgresLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    for bounded in (log.wakeups._wanted, log.wakeups._recent):
        monkeypatch.setattr(bounded, "_most", 100)
    subscriptions = [other.wakeups.subscribe(record().id) for _ in range(300)]
    await until(lambda: len(log.wakeups._wanted) == 100)
    log.wakeups.publish(record().id for _ in range(300))
    assert len(log.wakeups._recent) == 100
    for subscription in subscriptions:
        subscription.close()
    log.wakeups._forget(time.monotonic() + 100)
    assert not log.wakeups._wanted
    assert not log.wakeups._recent


async def test_a_listener_that_is_killed_comes_back_and_its_readers_miss_nothing(
    log: PostgresLog, other: PostgresLog, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    stream = record()
    await log.append([new(stream)])
    cursor = Cursor(Reads(other), stream.id, 0, None, resumed=True)
    try:
        async with somebody(store) as them:
            for number in range(1, 40):
                if number % 10 == 0:
                    for pid in await subscribers(them):
                        await them.execute("SELECT pg_terminate_backend($1)", pid)
                await log.append([add(stream, *events(number, 1))])
                async with asyncio.timeout(5):
                    page = await cursor.next()
                assert [event.sequence for event in page.events] == [number]
            async with asyncio.timeout(10):
                while len(await subscribers(them)) < 2:
                    await asyncio.sleep(0.02)
    finally:
        cursor.close()
    with subscribed(other, stream) as subscription:
        await settle(subscription)
        await log.append([add(stream, *events(40, 1))])
        await subscription.wait()
    assert "No wake-ups for now" in caplog.text


async def test_foreign_messages_on_the_channel_harm_nobody(
    log: PostgresLog, other: PostgresLog, store: Store
) -> None:
    stream = record()
    await log.append([new(stream)])
    async with somebody(store) as them:
        for payload in (
            "",
            "t",
            "w !!!",
            "t a",
            "x y z",
            "h extra",
            "t \u00e9",
            "t #a #",
            "t AAAA #AAAA",
        ):
            await them.execute("SELECT pg_notify('mcp_wake', $1)", payload)
    with subscribed(other, stream) as subscription:
        await settle(subscription)
        await log.append([add(stream, *events(1, 1))])
        await subscription.wait()
