"""What a worker that died, or was taken for dead, left in Redis, and what that says later."""

import asyncio
import contextlib

import pytest

from mcp_persist_middleware.log import takeover
from mcp_persist_middleware.model import Event, StreamState, StreamWrite
from mcp_persist_middleware.stores.redis import scripts
from mcp_persist_middleware.testing.contract.builders import (
    ALL,
    COMMITTED,
    FENCED,
    add,
    events,
    new,
    numbers,
    record,
)
from tests.contract.redis_builders import Place, die, hold_back, is_up, read_all
from tests.support.scripted import until

pytestmark = pytest.mark.timeout(60)


async def test_what_a_dead_worker_left_in_redis_is_drained_before_its_stream_ends(
    place: Place,
) -> None:
    stream = record(worker="one")
    async with place.worker("one") as one, place.worker("two") as two:
        hold_back(one)
        await one.append([new(stream, *events(1, 2))])
        await one.append([add(stream, *events(3, 300))])
        await one.append([add(stream, *events(303, 1))])
        await die(one)
        assert place.in_sql(stream) == [1, 2]
        (left,) = await two.open_streams_of("one", 10)
        ended = await takeover.end(two, left, 60.0, None)
        assert ended is not None
        assert (ended.state, ended.last_sequence) == (StreamState.FAILED, 304)
        assert place.in_sql(stream) == list(range(1, 305))
        assert await numbers(two, stream) == list(range(1, 305))
        await until(lambda: not place.left("c"))


async def test_who_takes_back_what_it_wrote_before_drains_what_was_written_since(
    place: Place,
) -> None:
    """It was frozen, and had nothing more to write, so nobody told it that it was replaced."""
    stream = record(worker="one")
    async with place.worker("one") as one, place.worker("two") as two:
        await one.append([new(stream, *events(1, 2))])
        hold_back(two)
        taken = add(stream, *events(3, 1, epoch=2), epoch=2, takes_over=1)
        assert await two.append([taken]) == [COMMITTED]
        assert await two.append([add(stream, *events(4, 2, epoch=2), epoch=2)]) == [COMMITTED]
        await die(two)
        assert place.in_sql(stream) == [1, 2, 3]
        assert await one.append([StreamWrite(stream.id, 3, takes_over=2)]) == [COMMITTED]
        assert place.in_sql(stream) == [1, 2, 3, 4, 5]


async def test_a_writer_that_was_taken_for_dead_writes_nothing_more_anywhere(
    place: Place,
) -> None:
    stream = record(worker="one")
    async with place.worker("one") as one, place.worker("two") as two:
        hold_back(one)
        await one.append([new(stream)])
        await one.append([add(stream, *events(1, 3))])
        ended = await takeover.end(two, stream, 60.0, None)
        assert ended is not None
        assert ended.last_sequence == 4
        assert await one.append([add(stream, *events(4, 2))]) == [FENCED]
        assert await one.append([add(stream, *events(4, 2))]) == [FENCED]
        assert [(e.sequence, e.epoch) for e in await two.read(stream.id, 0, *ALL)] == [
            (1, 1),
            (2, 1),
            (3, 1),
            (4, 2),
        ]


async def test_a_takeover_sees_what_the_writer_wrote_until_it_was_fenced(place: Place) -> None:
    stream = record(worker="one")
    async with place.worker("one") as one, place.worker("two") as two:
        hold_back(one)
        await one.append([new(stream)])
        await one.append([add(stream, *events(1, 3))])
        read, more = two.read, iter([4])

        async def read_and_lose_the_race(*page: int) -> list[Event]:
            found = await read(*page)
            if not found and (number := next(more, None)):
                assert await one.append([add(stream, *events(number, 1))]) == [COMMITTED]
            return found

        two.read = read_and_lose_the_race  # type: ignore[method-assign]
        ended = await takeover.end(two, stream, 60.0, None)
        assert ended is not None
        assert next(more, None) is None
        assert ended.last_sequence == 5
        assert place.in_sql(stream) == [1, 2, 3, 4, 5]


async def test_what_an_old_redis_says_of_a_stream_that_went_on_without_it_counts_for_nothing(
    place: Place,
) -> None:
    stream = record(worker="one")
    place.settings["store_timeout"] = 1.0
    async with place.worker("one") as one, place.worker("two") as two:
        hold_back(one)
        await one.append([new(stream)])
        await one.append([add(stream, *events(1, 3))])
        await die(one)
        with place.frozen():
            # It is waited for, but not for ever.
            ended = await takeover.end(two, stream, 60.0, None)
            assert ended is not None
            assert ended.last_sequence == 1
        await is_up(two)
        for log in (one, two):
            assert [(e.sequence, e.epoch) for e in await log.read(stream.id, 0, *ALL)] == [(1, 2)]
        # Nor does it stay there.
        client = place.client
        client.zadd(two._keys.index, {stream.id: 1})
        assert place.left("c")
        await two.purge(1.0, 10)
        assert not place.left()
        client.close()


async def test_a_stream_that_was_taken_over_without_redis_is_read_as_sql_has_it(
    place: Place,
) -> None:
    stream = record(worker="one")
    place.settings["store_timeout"] = 1.0
    async with place.worker("one") as one, place.worker("two") as two, place.worker("three") as us:
        hold_back(one)
        await one.append([new(stream)])
        await one.append([add(stream, *events(1, 3))])
        await die(one)
        with place.frozen():
            go_on = add(stream, *events(1, 1, epoch=2), epoch=2, takes_over=1)
            assert await two.append([go_on]) == [COMMITTED]
        for log in (one, two, us):
            await is_up(log)
            assert await read_all(log, stream) == [(1, 2)]
        assert await two.append([add(stream, *events(2, 2, epoch=2), epoch=2)]) == [COMMITTED]
        for log in (two, us):
            assert await read_all(log, stream) == [(1, 2), (2, 2), (3, 2)]


async def test_a_command_that_was_late_takes_the_place_of_nothing(place: Place) -> None:
    stream = record()
    async with place.worker("one") as one:
        keys = one._keys.of(stream.id)

        async def appended(first: int, *, begins: bool) -> int:
            chunk = scripts.encode(events(first, 2))
            append = scripts.StreamAppend(keys, "c", 1, first, first + 1, chunk, begins, 0, b"")
            replies = await one._client.run(scripts.appending([append], 1))
            (outcome,) = scripts.appended(replies, 1, 1)
            return int(outcome)

        assert await appended(4, begins=True) == scripts.DONE
        assert await appended(4, begins=True) == scripts.DONE, "its own repetition"
        assert await appended(6, begins=False) == scripts.DONE
        assert await appended(4, begins=True) == scripts.LOST
        assert await appended(9, begins=False) == scripts.LOST
        assert await appended(8, begins=False) == scripts.DONE
        with contextlib.closing(place.client) as client:
            assert client.xlen(keys[1]) == 3


async def test_a_redis_that_stands_still_at_a_takeover_costs_no_acknowledged_event(
    place: Place,
) -> None:
    stream = record(worker="one")
    async with place.worker("one") as one, place.worker("two") as two:
        hold_back(one)
        await one.append([new(stream)])
        assert await one.append([add(stream, *events(1, 3))]) == [COMMITTED]
        await die(one)
        go_on = add(stream, *events(1, 1, epoch=2), epoch=2, takes_over=1)
        with place.frozen():
            taking = asyncio.create_task(two.append([go_on]))
            await until(lambda: not two._client.is_up)
        assert await taking == [FENCED], "there is more than it was made for"
        await is_up(two)
        assert await read_all(two, stream) == [(1, 1), (2, 1), (3, 1)]
