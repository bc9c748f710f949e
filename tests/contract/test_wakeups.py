"""A reader hears of what another worker commits, and only its patience depends on that."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from mcp_persist_middleware.log.base import EventLog
from mcp_persist_middleware.model import StreamRecord
from mcp_persist_middleware.signals.base import Subscription
from tests.contract.builders import add, ending, events, new, record
from tests.contract.conftest import Factory

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
