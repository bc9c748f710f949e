"""A Redis that forgets, dies, stands still or is away costs nothing while the worker lives."""

import signal
import time
from pathlib import Path

import pytest

from mcp_persist_middleware.testing.contract.builders import (
    COMMITTED,
    add,
    events,
    new,
    numbers,
    record,
)
from tests.contract.redis_builders import Place, die, flushed, hold_back, is_up, read_all
from tests.support.scripted import until
from tests.support.stores import RedisServer

pytestmark = pytest.mark.timeout(60)


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
