"""A reader hears of what another worker commits, and only its patience depends on that."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from mcp_persist_middleware.log.base import EventLog
from mcp_persist_middleware.log.sqlite import SqliteLog
from mcp_persist_middleware.model import StreamRecord
from mcp_persist_middleware.signals.base import Subscription
from tests.contract.builders import add, direct, ending, events, new, record
from tests.contract.conftest import Factory
from tests.support.scripted import until

pytestmark = pytest.mark.timeout(30)


@contextmanager
def subscribed(log: EventLog, stream: StreamRecord) -> Iterator[Subscription]:
    """A place among the readers of a stream."""
    subscription = log.wakeups.subscribe(stream.id)
    # Longer than any test takes: what returns sooner has been woken.
    subscription.patience = 3600
    try:
        yield subscription
    finally:
        subscription.close()


async def _settle(subscription: Subscription) -> None:
    """Let the wake-ups pass that every subscription begins with."""
    with suppress(TimeoutError):
        async with asyncio.timeout(0.1):
            while True:
                await subscription.wait()


async def test_a_new_subscription_looks_once_for_what_was_committed_before(log: EventLog) -> None:
    with subscribed(log, record()) as subscription:
        await subscription.wait()


async def test_every_commit_to_the_stream_wakes_its_reader(log: EventLog, other: EventLog) -> None:
    stream = record()
    await log.append([new(stream)])
    with subscribed(other, stream) as subscription:
        await _settle(subscription)
        for number in range(1, 20):
            await log.append([add(stream, *events(number, 1))])
            await subscription.wait()
        await log.append([add(stream, ending=ending(19))])
        await subscription.wait()


async def test_a_commit_between_two_waits_is_not_forgotten(log: EventLog, other: EventLog) -> None:
    stream, beside = record(), record()
    await log.append([new(stream), new(beside)])
    with subscribed(other, stream) as reader, subscribed(other, beside) as witness:
        await _settle(reader)
        await _settle(witness)
        await log.append([add(stream, *events(1, 1)), add(beside, *events(1, 1))])
        await witness.wait()
        await reader.wait()


async def test_the_first_commit_of_a_stream_wakes_who_waited_for_it(
    log: EventLog, other: EventLog
) -> None:
    stream = record()
    with subscribed(other, stream) as subscription:
        await _settle(subscription)
        await log.append([new(stream, *events(1, 1))])
        await subscription.wait()


async def test_a_second_reader_of_a_stream_misses_nothing(log: EventLog, other: EventLog) -> None:
    stream = record()
    await log.append([new(stream)])
    with subscribed(other, stream) as first:
        await _settle(first)
        with subscribed(other, stream) as second:
            await _settle(second)
            await log.append([add(stream, *events(1, 1))])
            await first.wait()
            await second.wait()


async def test_patience_ends_a_wait_that_nothing_ends(log: EventLog) -> None:
    with subscribed(log, record()) as subscription:
        await _settle(subscription)
        subscription.patience = 0.01
        await subscription.wait()


async def test_a_closed_subscription_may_be_closed_again(log: EventLog) -> None:
    with subscribed(log, record()) as subscription:
        subscription.close()


async def test_a_closed_log_leaves_no_waiting_reader_a_fault(make_log: Factory) -> None:
    made = make_log()
    await made.open("one")
    with subscribed(made, record()):
        await made.aclose()
        await made.aclose()


# SQLite alone: one thread that asks `PRAGMA data_version`.


def _pollers() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name == "mcp-persist-data-version"]


async def test_one_poller_serves_all_readers_and_none_runs_without_them(log: SqliteLog) -> None:
    assert not _pollers()
    subscriptions = [log.wakeups.subscribe(record().id) for _ in range(300)]
    assert len(_pollers()) == 1
    for subscription in subscriptions:
        subscription.close()
    await until(lambda: not _pollers())


async def test_a_commit_to_another_stream_wakes_nobody(log: SqliteLog, other: SqliteLog) -> None:
    stream, busy = record(), record()
    await log.append([new(stream), new(busy)])
    with subscribed(other, stream) as subscription, subscribed(other, busy) as witness:
        await subscription.wait()  # every subscription begins with a look,
        await subscription.wait()  # and the poller with what it had not seen
        await _settle(witness)
        for number in range(1, 10):
            await log.append([add(busy, *events(number, 1))])
            await witness.wait()
        assert not subscription._notified


async def test_readers_are_woken_in_a_file_that_took_the_place_of_a_deleted_one(
    log: SqliteLog, other: SqliteLog
) -> None:
    stream = record()
    with subscribed(other, stream) as subscription:
        await _settle(subscription)
        for path in log._path.parent.glob("events.db*"):
            if "worker" not in path.name:
                path.unlink()
        replacement = SqliteLog(log._url, prefix="mcp_", timeout=5.0)
        await replacement.open("three")
        try:
            await _settle(subscription)
            await replacement.append([new(stream, *events(1, 1))])
            await subscription.wait()
        finally:
            await replacement.aclose()


async def test_readers_look_by_themselves_while_the_poller_has_no_database(
    log: SqliteLog, other: SqliteLog, caplog: pytest.LogCaptureFixture
) -> None:
    stream = record()
    moved = log._path.with_name("moved")
    with subscribed(other, stream) as subscription:
        await _settle(subscription)
        log._path.rename(moved)
        for _ in range(3):
            await subscription.wait()
        moved.rename(log._path)
        await until(lambda: not other.wakeups._poller._failing)
        await _settle(subscription)
        await log.append([new(stream, *events(1, 1))])
        await subscription.wait()
    assert sum("No wake-ups for now" in text for text in caplog.messages) == 1


async def test_the_poller_cannot_write_and_finds_its_rows_by_an_index(log: SqliteLog) -> None:
    streams = [record(session=f"s{n}") for n in range(50)]
    await log.append([new(s, *events(1, 20), ending=ending(20)) for s in streams])
    with direct(log._path) as outside:
        outside.execute("ANALYZE")
        sql = log._wakeups._select.format(rows="(?), (?)")
        steps = [row[3] for row in outside.execute("EXPLAIN QUERY PLAN " + sql, [b"a", b"b"])]
    searches = [step for step in steps if "SEARCH" in step]
    assert len(searches) == 2
    assert all("PRIMARY KEY" in step for step in searches)
    assert not any(step.startswith("SCAN mcp_") or "TEMP B-TREE" in step for step in steps)
