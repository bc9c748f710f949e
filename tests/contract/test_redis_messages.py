"""What comes with a wake-up need not be asked for: a reader on another worker has an event, and a
sender its reply, when Redis has sent it, whatever Redis does then."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from mcp_persist_middleware.model import Event, EventKind
from mcp_persist_middleware.stores.redis.log import RedisLog
from mcp_persist_middleware.testing.contract.builders import add, events, new, numbers, record
from mcp_persist_middleware.wakeups.base import Subscription
from tests.contract.redis_builders import Place, flushed, hold_back
from tests.contract.redis_pair import ANSWERED, workers
from tests.support.scripted import until

pytestmark = pytest.mark.timeout(60)


async def listening(log: RedisLog, topic: bytes) -> Callable[[], Awaitable[None]]:
    """Have a topic listened to; what waits for its next message."""
    topic_wakeups = log.wakeups.subscribe(topic)
    # Two looks are for what was there before: at once, and when Redis and the store listen.
    async with asyncio.timeout(5):
        for _ in range(3):
            await topic_wakeups.wait()

    async def next_message() -> None:
        await until(lambda: log._wakeups.heard.of(topic))

    return next_message


async def test_an_event_that_came_with_its_wake_up_is_read_from_a_redis_that_stands_still(
    place: Place,
) -> None:
    stream = record()
    async with place.worker("one") as one, place.worker("two") as two:
        hold_back(one)
        await one.append([new(stream, *events(1, 2))])
        next_message = await listening(two, stream.id)
        assert await numbers(two, stream) == [1, 2]
        await one.append([add(stream, *events(3, 2))])
        await one.append([add(stream, *events(5, 1))])
        await next_message()
        await until(lambda: len(two._wakeups.heard.of(stream.id)) == 2)
        with place.frozen():
            assert await numbers(two, stream, 2) == [3, 4, 5]
            assert await numbers(two, stream, 4) == [5]
            assert two._client.is_up, "nobody has asked it"
        assert place.in_sql(stream) == [1, 2]


async def test_who_sets_its_own_patience_keeps_it_and_others_have_that_of_the_store(
    place: Place,
) -> None:
    async with place.worker("one") as one:
        own, others = one.wakeups.subscribe(b"a" * 16), one.wakeups.subscribe(b"b" * 16)
        assert own.patience >= 1, "nobody looks again and again meanwhile"
        own.patience = 3600
        await until(lambda: all(isinstance(o, Subscription) for o in one._wakeups._below.values()))
        assert own.patience == 3600
        below = one.inner.wakeups.subscribe(b"b" * 16)
        assert others.patience == below.patience
        for each in (own, others, below):
            each.close()
        assert not one._wakeups._below


async def test_a_message_that_was_missed_hides_nothing(place: Place) -> None:
    stream = record()
    async with place.worker("one") as one, place.worker("two") as two:
        hold_back(one)
        await one.append([new(stream, *events(1, 1))])
        next_message = await listening(two, stream.id)
        await one.append([add(stream, *events(2, 2))])
        await next_message()
        two._wakeups.heard.clear()
        await one.append([add(stream, *events(4, 2))])
        await next_message()
        assert await numbers(two, stream) == [1, 2, 3, 4, 5]
        assert await numbers(two, stream, 3) == [4, 5]


async def test_what_was_too_large_to_be_told_is_read_with_its_neighbours(place: Place) -> None:
    stream = record()
    large = Event(3, 1, EventKind.MESSAGE, b"data: " + b"x" * 9000 + b"\r\n")
    async with place.worker("one") as one, place.worker("two") as two:
        hold_back(one)
        await one.append([new(stream, *events(1, 1))])
        await listening(two, stream.id)
        for more in (events(2, 1), (large,), events(4, 1)):
            await one.append([add(stream, *more)])
        await until(lambda: len(two._wakeups.heard.of(stream.id)) == 3)
        assert large.frame not in two._wakeups.heard.of(stream.id)[1]
        assert await numbers(two, stream, 1) == [2, 3, 4]


@pytest.mark.parametrize("message", [b"hello", b"2:", b"2:\0\0\0\1\0\0\xff\xffx", b":"])
async def test_a_message_that_nobody_can_read_costs_no_reader_its_stream(
    place: Place, message: bytes
) -> None:
    stream = record()
    async with place.worker("one") as one, place.worker("two") as two:
        await one.append([new(stream, *events(1, 1))])
        await listening(two, stream.id)
        two._wakeups.heard.add(stream.id, message)
        await one.append([add(stream, *events(2, 1))])
        assert await numbers(two, stream) == [1, 2]
        assert await numbers(two, stream, 1) == [2]


async def test_what_was_heard_of_an_epoch_that_is_over_is_not_told(place: Place) -> None:
    stream = record()
    async with place.worker("one") as one, place.worker("two") as two:
        await one.append([new(stream, *events(1, 1))])
        next_message = await listening(two, stream.id)
        await one.append([add(stream, *events(2, 1))])
        await next_message()
        await flushed(one)
        two._wakeups.heard.add(stream.id, _next_chunk_of(two._wakeups.heard.of(stream.id)[0]))
        assert await numbers(two, stream, 2) == []


def _next_chunk_of(message: bytes) -> bytes:
    """A chunk with the next number, of the epoch before."""
    _, _, chunk = message.partition(b":")
    return b"3:" + bytes(4) + chunk[4:]


async def test_a_reply_that_came_with_its_wake_up_is_there_when_redis_stands_still(
    place: Place,
) -> None:
    async with workers(place) as pair:
        await pair.claim()
        sent = await pair.put()
        next_message = await listening(pair.two, sent.id)
        await pair.claim()
        await pair.answer(sent)
        await next_message()
        with place.frozen():
            assert await pair.sender.look(sent.name) == ANSWERED
            assert pair.two._client.is_up, "nobody has asked it"
