"""Redis in front of SQL: what it takes over, and that nothing depends on its memory alone."""

import asyncio
import contextlib
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mcp_persist_middleware.errors import StoreError
from mcp_persist_middleware.log import takeover
from mcp_persist_middleware.model import Event, EventKind, StreamState
from mcp_persist_middleware.stores.redis import scripts
from mcp_persist_middleware.testing.contract.builders import (
    ALL,
    COMMITTED,
    FENCED,
    add,
    ending,
    events,
    new,
    numbers,
    record,
)
from tests.contract.redis_builders import Place, die, flushed, hold_back, is_up, read_all
from tests.support.scripted import until
from tests.support.stores import RedisServer

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """A Redis of this test's own."""
    server = RedisServer(tmp_path / "redis")
    server.start()
    yield Place(tmp_path, server)
    server.stop()


async def test_an_event_is_committed_and_read_elsewhere_before_sql_has_it(place: Place) -> None:
    stream = record()
    async with place.worker("one") as one, place.worker("two") as two:
        await one.append([new(stream, *events(1, 1))])
        with place.sql_locked():
            began = time.monotonic()
            assert await one.append([add(stream, *events(2, 3))]) == [COMMITTED]
            assert time.monotonic() - began < 1
            assert place.in_sql(stream) == [1]
            assert await numbers(two, stream) == [1, 2, 3, 4]
            assert await numbers(one, stream) == [1, 2, 3, 4]
        await flushed(one)
        assert place.in_sql(stream) == [1, 2, 3, 4]


async def test_an_end_takes_all_that_came_before_it_to_sql_and_its_keys_go(place: Place) -> None:
    stream = record()
    async with place.worker("one") as one:
        hold_back(one)
        await one.append([new(stream)])
        await one.append([add(stream, *events(1, 5))])
        assert place.in_sql(stream) == []
        assert place.left()
        last = add(stream, *events(6, 1, kind=EventKind.RESPONSE), ending=ending(6))
        assert await one.append([last]) == [COMMITTED]
        assert place.in_sql(stream) == [1, 2, 3, 4, 5, 6]
        assert await one.append([last]) == [COMMITTED], "a repetition is recognised"
        await until(lambda: not place.left())


async def test_who_closes_leaves_everything_in_sql_and_nothing_in_redis(place: Place) -> None:
    stream = record()
    async with place.worker("one") as one:
        await one.append([new(stream)])
        await one.append([add(stream, *events(1, 2000))])
    assert place.in_sql(stream) == list(range(1, 2001))
    assert place.left() == []


async def test_a_stream_that_is_quiet_leaves_redis_and_comes_back(place: Place) -> None:
    stream = record()
    async with place.worker("one") as one:
        await one.append([new(stream)])
        await one.append([add(stream, *events(1, 2))])
        await flushed(one)
        buffer = one._buffers.get(stream.id)
        assert buffer is not None
        buffer.touched -= 60
        await until(lambda: not place.left())
        assert await one.append([add(stream, *events(3, 2))]) == [COMMITTED]
        assert buffer.begun
        assert await numbers(one, stream) == [1, 2, 3, 4]


async def test_redis_that_forgets_everything_costs_nothing_while_the_worker_lives(
    place: Place,
) -> None:
    stream = record()
    async with place.worker("one") as one, place.worker("two") as two:
        hold_back(one)
        await one.append([new(stream)])
        await one.append([add(stream, *events(1, 3))])
        place.client.flushall()
        # A reader here finds it in memory; one elsewhere waits, and is told of no gap.
        assert await numbers(one, stream) == [1, 2, 3]
        assert await numbers(two, stream) == []
        assert await one.append([add(stream, *events(4, 2))]) == [COMMITTED]
        assert place.in_sql(stream) == [1, 2, 3, 4, 5]
        assert await numbers(two, stream) == [1, 2, 3, 4, 5]
        # And the stream goes on in Redis.
        assert await one.append([add(stream, *events(6, 2))]) == [COMMITTED]
        assert place.in_sql(stream) == [1, 2, 3, 4, 5]
        assert await numbers(two, stream) == [1, 2, 3, 4, 5, 6, 7]


async def test_a_redis_that_was_killed_is_done_without_and_used_again_by_itself(
    place: Place,
) -> None:
    stream = record()
    async with place.worker("one") as one, place.worker("two") as two:
        hold_back(one)
        await one.append([new(stream)])
        await one.append([add(stream, *events(1, 3))])
        place.server.stop(signal.SIGKILL)
        assert await one.append([add(stream, *events(4, 2))]) == [COMMITTED]
        assert place.in_sql(stream) == [1, 2, 3, 4, 5]
        assert await numbers(two, stream) == [1, 2, 3, 4, 5]
        place.server.start()
        await is_up(one)
        await is_up(two)
        assert await one.append([add(stream, *events(6, 2))]) == [COMMITTED]
        assert place.in_sql(stream) == [1, 2, 3, 4, 5]
        assert await numbers(two, stream) == [1, 2, 3, 4, 5, 6, 7]


async def test_a_redis_that_restarts_with_its_memory_goes_on(place: Place, tmp_path: Path) -> None:
    place.server.stop()
    server = RedisServer(tmp_path / "aof", "--appendonly", "yes", "--appendfsync", "always")
    server.start()
    place.server = server
    stream = record()
    try:
        async with place.worker("one") as one:
            hold_back(one)
            await one.append([new(stream)])
            await one.append([add(stream, *events(1, 3))])
            server.stop(signal.SIGKILL)
            server.start()
            await until(lambda: one._client.is_up)
            assert await one.append([add(stream, *events(4, 2))]) == [COMMITTED]
            await die(one)
        async with place.worker("two") as two:
            assert await numbers(two, stream) == [1, 2, 3, 4, 5]
    finally:
        server.stop()


async def test_a_frozen_redis_is_not_waited_for_and_its_late_writes_change_nothing(
    place: Place,
) -> None:
    stream = record()
    async with place.worker("one") as one, place.worker("two") as two:
        await one.append([new(stream)])
        await one.append([add(stream, *events(1, 3))])
        with place.frozen():
            began = time.monotonic()
            # Redis will find this one in its socket when it wakes.
            assert await one.append([add(stream, *events(4, 2))]) == [COMMITTED]
            assert await one.append([add(stream, *events(6, 2))]) == [COMMITTED]
            assert time.monotonic() - began < 3
            assert place.in_sql(stream) == [1, 2, 3, 4, 5, 6, 7]
            assert await numbers(two, stream) == [1, 2, 3, 4, 5, 6, 7]
        await is_up(one)
        await is_up(two)
        assert [n for n, _ in await read_all(two, stream)] == [1, 2, 3, 4, 5, 6, 7]
        assert await one.append([add(stream, *events(8, 2))]) == [COMMITTED]
        assert [n for n, _ in await read_all(two, stream)] == [1, 2, 3, 4, 5, 6, 7, 8, 9]
        await flushed(one)
        assert place.in_sql(stream) == [1, 2, 3, 4, 5, 6, 7, 8, 9]


async def test_a_redis_without_memory_takes_nothing_and_is_done_without(place: Place) -> None:
    streams = [record() for _ in range(20)]
    client = place.client
    async with place.worker("one") as one:
        await one.append([new(stream) for stream in streams])
        await one.append([add(stream, *events(1, 2)) for stream in streams])
        client.config_set("maxmemory", "1")
        assert await one.append([add(s, *events(3, 2)) for s in streams]) == [COMMITTED] * 20
        assert not one._client.is_up
        for stream in streams:
            assert place.in_sql(stream) == [1, 2, 3, 4]
        client.config_set("maxmemory", "0")
        await is_up(one)
        assert await one.append([add(s, *events(5, 2)) for s in streams]) == [COMMITTED] * 20
        assert await numbers(one, streams[0]) == [1, 2, 3, 4, 5, 6]
    client.close()


async def test_redis_that_is_away_at_the_start_is_used_when_it_comes(place: Place) -> None:
    place.server.stop()
    stream = record()
    async with place.worker("one") as one:
        await one.append([new(stream)])
        assert await one.append([add(stream, *events(1, 2))]) == [COMMITTED]
        assert place.in_sql(stream) == [1, 2]
        place.server.start()
        await is_up(one)
        with place.sql_locked():
            assert await one.append([add(stream, *events(3, 2))]) == [COMMITTED]


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
            call = scripts.APPEND(keys, 1, first, first + 1, chunk, int(begins), 0, "channel")
            (reply,) = await one._client.run([call])
            return int(reply)

        assert await appended(4, begins=True) == scripts.DONE
        assert await appended(4, begins=True) == scripts.DONE, "its own repetition"
        assert await appended(6, begins=False) == scripts.DONE
        assert await appended(4, begins=True) == scripts.LOST
        assert await appended(9, begins=False) == scripts.LOST
        assert await appended(8, begins=False) == scripts.DONE
        with contextlib.closing(place.client) as client:
            assert client.xlen(keys[1]) == 3


async def test_sql_that_is_away_stops_the_acknowledging_before_the_worker_may_be_dead(
    place: Place,
) -> None:
    stream = record()
    place.settings["store_timeout"] = 0.6
    async with place.worker("one") as one:
        await one.append([new(stream)])
        number = 1
        with place.sql_locked():
            began = time.monotonic()
            failure: StoreError | None = None
            while failure is None:
                assert time.monotonic() - began < 5
                try:
                    assert await one.append([add(stream, *events(number, 1))]) == [COMMITTED]
                    number += 1
                except StoreError as error:
                    failure = error
                await asyncio.sleep(0.02)
            assert "has not taken" in str(failure)
            assert 0.5 < time.monotonic() - began < 3
            assert number > 5
        await flushed(one)
        assert place.in_sql(stream) == list(range(1, number))
        assert await one.append([add(stream, *events(number, 1))]) == [COMMITTED]


async def test_the_backlog_is_bounded_and_waits_for_sql(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcp_persist_middleware.stores.redis.write_behind._MAX_EVENTS", 100)
    stream = record()
    async with place.worker("one") as one:
        await one.append([new(stream)])
        with place.sql_locked():
            assert await one.append([add(stream, *events(1, 100))]) == [COMMITTED]
            waiting = asyncio.create_task(one.append([add(stream, *events(101, 1))]))
            done, _ = await asyncio.wait([waiting], timeout=0.5)
            assert not done
        assert await waiting == [COMMITTED]
        assert one._buffers.events <= 100


async def test_an_append_that_failed_is_repeated_without_doubling_and_may_be_given_up(
    place: Place,
) -> None:
    fast, lost = record(), record()
    place.settings["store_timeout"] = 1.0
    async with place.worker("one") as one:
        await one.append([new(fast), new(lost)])
        batch = [add(fast, *events(1, 2)), add(lost, *events(1, 1), ending=ending(1))]
        with place.sql_locked(), pytest.raises(StoreError):
            await one.append(batch)
        # Redis took one of the two; nobody has been told.
        assert await numbers(one, fast) == []
        assert await one.append(batch) == [COMMITTED] * 2
        assert await numbers(one, fast) == [1, 2]
        batch = [add(fast, *events(3, 2)), new(record(), *events(1, 1))]
        with place.sql_locked(), pytest.raises(StoreError):
            await one.append(batch)
        # The stream went on without the log, and its answer follows what was committed.
        answer = add(fast, *events(3, 1, epoch=2), epoch=2, takes_over=1, ending=ending(3))
        assert await one.append([answer]) == [COMMITTED]
        assert [(e.sequence, e.epoch) for e in await one.read(fast.id, 0, *ALL)] == [
            (1, 1),
            (2, 1),
            (3, 2),
        ]


async def test_two_stores_on_one_redis_never_meet(place: Place, tmp_path: Path) -> None:
    stream = record()
    (tmp_path / "elsewhere").mkdir()
    beside = Place(tmp_path / "elsewhere", place.server)
    async with place.worker("one") as one, beside.worker("one") as other:
        for log in (one, other):
            hold_back(log)
            assert await log.append([new(stream)]) == [COMMITTED]
        assert await one.append([add(stream, *events(1, 3))]) == [COMMITTED]
        assert await numbers(other, stream) == []
        assert await other.append([add(stream, *events(1, 1))]) == [COMMITTED]
        assert await numbers(other, stream) == [1]
        await die(other)
    async with beside.worker("three") as third:
        assert await numbers(third, stream) == [1]


async def test_large_events_do_not_go_through_redis(place: Place) -> None:
    stream = record()
    large = Event(3, 1, EventKind.RESPONSE, b"x" * 5_000_000)
    async with place.worker("one") as one, place.worker("two") as two:
        hold_back(one)
        await one.append([new(stream)])
        await one.append([add(stream, *events(1, 2))])
        assert await one.append([add(stream, large)]) == [COMMITTED]
        assert place.in_sql(stream) == [1, 2, 3]
        assert await one.append([add(stream, *events(4, 1))]) == [COMMITTED]
        assert place.in_sql(stream) == [1, 2, 3]
        assert await numbers(two, stream) == [1, 2, 3, 4]


async def test_a_page_goes_from_sql_into_redis_without_a_seam(place: Place) -> None:
    stream = record()
    async with place.worker("one") as one, place.worker("two") as two:
        await one.append([new(stream, *events(1, 10))])
        hold_back(one)
        for first in range(11, 411, 4):
            await one.append([add(stream, *events(first, 4))])
        for log in (one, two):
            for after, most in [(0, 1000), (0, 12), (3, 7), (9, 2), (10, 5), (37, 1000), (410, 9)]:
                page = await log.read(stream.id, after, most, 1 << 30)
                expected = list(range(after + 1, min(411, after + 1 + most)))
                assert [event.sequence for event in page] == expected
