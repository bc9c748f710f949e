"""Redis in front of SQL: what it takes over, how much, and when that is in SQL."""

import asyncio
import time
from pathlib import Path

import pytest

from mcp_persist_middleware.errors import StoreError
from mcp_persist_middleware.log.writer import Writer
from mcp_persist_middleware.model import Event, EventKind
from mcp_persist_middleware.testing.contract.builders import (
    ALL,
    COMMITTED,
    add,
    ending,
    events,
    new,
    numbers,
    record,
)
from tests.contract.lanes import FRAME, begun, fresh
from tests.contract.redis_builders import Place, die, flushed, hold_back
from tests.support.scripted import until

pytestmark = pytest.mark.timeout(60)


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


async def test_events_wait_for_no_stream_that_begins_while_sql_stands_still(place: Place) -> None:
    async with place.worker("one") as log:
        writer = Writer(log, 60.0)
        writer.start()
        running, new_one = await begun(writer), fresh()
        with place.sql_locked():
            # Both wait at the same time, and might be one batch.
            writer.open(new_one)
            writer.hurry(new_one)
            for number in range(1, 4):
                await writer.append(running, [(EventKind.MESSAGE, FRAME)])
                await until(lambda number=number: running.committed == number, 4)
            assert not new_one.created
        await until(lambda: new_one.created)
        await writer.aclose(10)
        assert await numbers(log, running.record) == [1, 2, 3]


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
