"""A reader hears of what another worker commits, and only its patience depends on that."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from mcp_persist_middleware.log.base import EventLog
from mcp_persist_middleware.log.cursor import Cursor
from mcp_persist_middleware.log.reads import Reads
from mcp_persist_middleware.model import StreamRecord
from mcp_persist_middleware.wakeups.base import Polling, Subscription
from tests.contract.builders import add, ending, events, new, record
from tests.contract.conftest import Factory
from tests.support.scripted import until

pytestmark = pytest.mark.timeout(30)


@contextmanager
def subscribed(log: EventLog, stream: StreamRecord) -> Iterator[Subscription]:
    """A place among the readers of a stream."""
    if isinstance(log.wakeups, Polling):
        pytest.skip("a log without wake-ups: its readers look by themselves")
    subscription = log.wakeups.subscribe(stream.id)
    # Longer than any test takes: what returns sooner has been woken.
    subscription.patience = 3600
    try:
        yield subscription
    finally:
        subscription.close()


async def settle(subscription: Subscription) -> None:
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
        await settle(subscription)
        for number in range(1, 20):
            await log.append([add(stream, *events(number, 1))])
            await subscription.wait()
        await log.append([add(stream, ending=ending(19))])
        await subscription.wait()


async def test_a_commit_between_two_waits_is_not_forgotten(log: EventLog, other: EventLog) -> None:
    stream, beside = record(), record()
    await log.append([new(stream), new(beside)])
    with subscribed(other, stream) as reader, subscribed(other, beside) as witness:
        await settle(reader)
        await settle(witness)
        await log.append([add(stream, *events(1, 1)), add(beside, *events(1, 1))])
        await witness.wait()
        await reader.wait()


async def test_the_first_commit_of_a_stream_wakes_who_waited_for_it(
    log: EventLog, other: EventLog
) -> None:
    stream = record()
    with subscribed(other, stream) as subscription:
        await settle(subscription)
        await log.append([new(stream, *events(1, 1))])
        await subscription.wait()


async def test_a_second_reader_of_a_stream_misses_nothing(log: EventLog, other: EventLog) -> None:
    stream = record()
    await log.append([new(stream)])
    with subscribed(other, stream) as first:
        await settle(first)
        with subscribed(other, stream) as second:
            await settle(second)
            await log.append([add(stream, *events(1, 1))])
            await first.wait()
            await second.wait()


async def test_patience_ends_a_wait_that_nothing_ends(log: EventLog) -> None:
    with subscribed(log, record()) as subscription:
        await settle(subscription)
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


async def test_with_every_wake_up_lost_every_event_arrives_all_the_same(
    log: EventLog, other: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Subscription, "notify", lambda _: None)
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
    assert cursor._subscription is not None
    cursor._subscription.patience = min(cursor._subscription.patience, 0.2)
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


@pytest.mark.parametrize("store", ["postgres", "sqlite+redis"], indirect=True)
async def test_what_is_published_wakes_who_waits_for_it_elsewhere_and_nobody_else(
    log: EventLog, other: EventLog
) -> None:
    topic, beside = record(), record()
    with subscribed(other, topic) as subscription, subscribed(other, beside) as bystander:
        await settle(subscription)
        await settle(bystander)
        log.wakeups.publish([topic.id])
        async with asyncio.timeout(5):
            await subscription.wait()
        assert not bystander._notified
