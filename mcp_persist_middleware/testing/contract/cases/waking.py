"""A reader hears of what another worker commits, where the store can tell."""

from mcp_persist_middleware.store import EventLog, HighWater
from mcp_persist_middleware.testing.contract.builders import (
    Factory,
    add,
    ending,
    events,
    new,
    record,
    settle,
    subscribed,
    woken,
)


class Waking:
    """A reader hears of what another worker commits, where the store can tell."""

    async def test_a_new_subscription_looks_once_for_what_was_committed_before(
        self, log: EventLog
    ) -> None:
        with subscribed(log, record()) as subscription:
            await woken(subscription)

    async def test_every_commit_to_the_stream_wakes_its_reader(
        self, log: EventLog, other: EventLog
    ) -> None:
        stream = record()
        await log.append([new(stream)])
        with subscribed(other, stream) as subscription:
            await settle(subscription)
            for number in range(1, 20):
                await log.append([add(stream, *events(number, 1))])
                await woken(subscription)
            await log.append([add(stream, ending=ending(19))])
            await woken(subscription)

    async def test_a_wake_up_tells_no_more_of_a_stream_than_was_committed(
        self, log: EventLog, other: EventLog
    ) -> None:
        stream = record()
        await log.append([new(stream)])
        with subscribed(other, stream) as subscription:
            await settle(subscription)
            for number in range(1, 10):
                await log.append([add(stream, *events(number, 1))])
                await woken(subscription)
                told = subscription.told
                assert told is None or told in [HighWater(1, n) for n in range(number + 1)]
            await log.append([add(stream, *events(10, 1), ending=ending(10))])
            await woken(subscription)
            while subscription.told is not None:
                # Whoever is told how far a stream is takes it for open.
                assert subscription.told.sequence < 10
                await woken(subscription)

    async def test_a_commit_between_two_waits_is_not_forgotten(
        self, log: EventLog, other: EventLog
    ) -> None:
        stream, beside = record(), record()
        await log.append([new(stream), new(beside)])
        with subscribed(other, stream) as reader, subscribed(other, beside) as witness:
            await settle(reader)
            await settle(witness)
            await log.append([add(stream, *events(1, 1)), add(beside, *events(1, 1))])
            await woken(witness)
            await woken(reader)

    async def test_the_first_commit_of_a_stream_wakes_who_waited_for_it(
        self, log: EventLog, other: EventLog
    ) -> None:
        stream = record()
        with subscribed(other, stream) as subscription:
            await settle(subscription)
            await log.append([new(stream, *events(1, 1))])
            await woken(subscription)

    async def test_a_second_reader_of_a_stream_misses_nothing(
        self, log: EventLog, other: EventLog
    ) -> None:
        stream = record()
        await log.append([new(stream)])
        with subscribed(other, stream) as first:
            await settle(first)
            with subscribed(other, stream) as second:
                await settle(second)
                await log.append([add(stream, *events(1, 1))])
                await woken(first)
                await woken(second)

    async def test_patience_ends_a_wait_that_nothing_ends(self, log: EventLog) -> None:
        with subscribed(log, record()) as subscription:
            await settle(subscription)
            subscription.patience = 0.01
            await woken(subscription)

    async def test_a_closed_subscription_may_be_closed_again(self, log: EventLog) -> None:
        with subscribed(log, record()) as subscription:
            subscription.close()

    async def test_a_closed_log_leaves_no_waiting_reader_a_fault(self, make_log: Factory) -> None:
        made = make_log()
        await made.open("one")
        with subscribed(made, record()):
            await made.aclose()
            await made.aclose()
