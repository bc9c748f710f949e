"""A command that reaches Redis late, behind what it would have removed, removes nothing of it."""

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from mcp_persist_middleware.log import takeover
from mcp_persist_middleware.model import Outcome, StreamKind, StreamRecord, StreamWrite
from mcp_persist_middleware.stores.redis.log import RedisLog
from mcp_persist_middleware.stores.redis.scripts import ScriptCall
from mcp_persist_middleware.testing.contract.builders import (
    COMMITTED,
    add,
    ending,
    events,
    new,
    numbers,
    record,
)
from tests.contract.redis_builders import Place, die, flushed, hold_back

pytestmark = pytest.mark.timeout(60)


@asynccontextmanager
async def workers(place: Place) -> AsyncIterator[tuple[RedisLog, RedisLog, RedisLog]]:
    """Three logs on one store."""
    async with (
        place.worker("one") as one,
        place.worker("two") as two,
        place.worker("three") as three,
    ):
        yield one, two, three


async def goes_on(log: RedisLog, stream: StreamRecord, first: int, more: int = 1) -> None:
    """Worker "two" takes the stream over with so many events, and writes one behind them."""
    taken = add(stream, *events(first, more, epoch=2), epoch=2, takes_over=1, worker="two")
    for write in (taken, add(stream, *events(first + more, 1, epoch=2), epoch=2)):
        assert await log.append([write]) == [COMMITTED]


def is_named(place: Place, log: RedisLog, stream: StreamRecord) -> bool:
    """Whether its keys are found when nobody is left who knows of them."""
    with contextlib.closing(place.client) as client:
        return client.zscore(log._keys.index, stream.id) is not None


class Late:
    """Holds what a log sends to Redis beside its appends, from its next write to SQL on."""

    def __init__(self, log: RedisLog) -> None:
        self._gate, self._arrived = asyncio.Event(), asyncio.Event()
        self._alone, self._append = log._client.alone, log.inner.append
        self.is_up = True
        self._log: Any = log
        self._log.inner.append = self._from_now_on

    async def _from_now_on(self, batch: Sequence[StreamWrite]) -> list[Outcome]:
        self._log._later._client, self._log.inner.append = self, self._append
        return await self._append(batch)

    async def alone(self, calls: Sequence[ScriptCall]) -> list[Any]:
        await self._gate.wait()
        replies = await self._alone(calls)
        self._arrived.set()
        return replies

    async def let(self) -> None:
        """What was held arrives."""
        self._gate.set()
        await asyncio.wait_for(self._arrived.wait(), 5)


@pytest.mark.parametrize("more", [0, 1], ids=["alone", "with an event"])
async def test_what_is_written_behind_a_takeover_outlives_the_burial_of_what_was_before(
    place: Place, more: int
) -> None:
    stream = record(worker="one")
    async with workers(place) as (one, two, three):
        await one.append([new(stream, *events(1, 1))])
        await die(one)
        hold_back(two)
        burial = Late(two)
        await goes_on(two, stream, 2, more)
        written = list(range(1, 3 + more))
        assert await numbers(three, stream) == written
        await burial.let()
        assert await numbers(three, stream) == written
        await die(two)
        (left,) = await three.open_streams_of("two", 10)
        assert await takeover.end(three, left, 60.0, None) is not None
        assert place.in_sql(stream) == [*written, 3 + more]


async def test_what_goes_on_elsewhere_outlives_what_its_end_here_removes(place: Place) -> None:
    stream = dataclasses.replace(record(worker="one"), kind=StreamKind.GET)
    async with workers(place) as (one, two, three):
        hold_back(two)
        await one.append([new(stream, *events(1, 1))])
        await one.append([add(stream, *events(2, 1))])
        removal = Late(one)
        assert await one.append([add(stream, ending=ending(2, expires_at=1e12))]) == [COMMITTED]
        await goes_on(two, stream, 3)
        assert 4 not in place.in_sql(stream)
        await removal.let()
        assert await numbers(three, stream) == [1, 2, 3, 4]
        assert is_named(place, three, stream)


async def test_what_goes_on_while_the_index_is_cleaned_is_not_removed(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = dataclasses.replace(record(worker="one"), kind=StreamKind.GET)
    async with workers(place) as (one, two, three):
        hold_back(two)
        await one.append([new(stream, *events(1, 1))])
        assert await one.append([add(stream, *events(2, 1))]) == [COMMITTED]
        await flushed(one)
        await die(one)
        ended = add(stream, ending=ending(2, expires_at=1e12))
        assert await three.inner.append([ended]) == [COMMITTED]
        with contextlib.closing(place.client) as client:
            client.zadd(three._keys.index, {stream.id: 1})  # long ago
        find = three._index._inner.find

        async def find_it_ended(name: bytes) -> StreamRecord | None:
            found = await find(name)
            monkeypatch.undo()
            await goes_on(two, stream, 3)
            return found

        monkeypatch.setattr(three._index._inner, "find", find_it_ended)
        await three._index.clean(three._keys)
        assert is_named(place, three, stream)
        await die(two)
        assert await numbers(three, stream) == [1, 2, 3, 4]
