"""Any schedule of appends, flushes, lost memory, outages and takeovers: what was acknowledged is
read in order, each event once, unless Redis forgot it and its writer died before SQL had it."""

import asyncio
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mcp_persist_middleware.log import takeover
from mcp_persist_middleware.model import EventKind, StreamState
from mcp_persist_middleware.stores.redis.log import RedisLog
from mcp_persist_middleware.testing.contract.builders import (
    COMMITTED,
    add,
    ending,
    events,
    new,
    record,
)
from tests.contract.redis_builders import Place, die, hold_back, is_up, read_all
from tests.support.stores import RedisServer

pytestmark = pytest.mark.timeout(300)

STEPS = st.one_of(
    st.tuples(st.just("append"), st.integers(1, 5)),
    st.tuples(st.just("flush"), st.just(0)),
    st.tuples(st.just("forget"), st.just(0)),
    st.tuples(st.just("away"), st.just(0)),
    st.tuples(st.just("back"), st.just(0)),
    st.tuples(st.just("settle"), st.just(0)),
    st.tuples(st.just("read"), st.integers(0, 60)),
    st.tuples(st.just("trim"), st.just(0)),
    st.tuples(st.just("snapshot"), st.just(0)),
    st.tuples(st.just("restore"), st.just(0)),
)
# What trimming never takes.
KIND = EventKind.REQUEST
ENDS = st.sampled_from(["end", "die", "zombie"])


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    """One Redis and one file for all schedules; each has a stream of its own."""
    with tempfile.TemporaryDirectory(prefix="mcp-model-") as directory:
        server = RedisServer(Path(directory) / "redis")
        server.start()
        yield Place(Path(directory), server, {"store_timeout": 1.0})
        server.stop()


@dataclass
class Schedule:
    """One stream, its writer `one`, a reader and heir `two`, and what has been promised."""

    place: Place
    one: RedisLog
    two: RedisLog
    acknowledged: int = 0
    held: int = 0
    """What SQL is known to have."""
    forgot: bool = False
    """Redis lost something that SQL did not have."""
    saved: dict[bytes, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.stream = record(worker="one")

    async def begin(self) -> None:
        assert await self.one.append([new(self.stream)]) == [COMMITTED]

    async def append(self, count: int) -> None:
        entry = add(self.stream, *events(self.acknowledged + 1, count, kind=KIND))
        assert await self.one.append([entry]) == [COMMITTED]
        self.acknowledged += count
        if not self.one._buffers.events:
            self._is_held()

    def _is_held(self) -> None:
        self.held, self.forgot = self.acknowledged, False

    async def flush(self, _: int) -> None:
        async with self.one._flusher.lock:
            while await self.one._flusher.step():
                pass
        self._is_held()

    async def forget(self, _: int) -> None:
        with self.place.client as client:
            client.flushall()
        self.forgot = self.forgot or self.held < self.acknowledged

    async def snapshot(self, _: int) -> None:
        """What a replica that falls behind has from now on."""
        with self.place.client as client:
            keys = [k for k in client.scan_iter() if k.endswith((b":h", b":c"))]
            self.saved = {key: client.dump(key) for key in keys}

    async def restore(self, _: int) -> None:
        """Redis fails over to that replica."""
        with self.place.client as client:
            client.flushall()
            for key, value in self.saved.items():
                client.restore(key, 0, value, replace=True)
        self.forgot = self.forgot or self.held < self.acknowledged

    async def away(self, _: int) -> None:
        """For the writer alone."""
        self.one._client.leave("the schedule says so")

    async def back(self, _: int) -> None:
        await is_up(self.one)

    async def settle(self, _: int) -> None:
        for buffer in self.one._buffers:
            buffer.touched -= 60
        self.one._idle._looked = 0.0
        self.one._idle.settle()
        await asyncio.sleep(0)

    async def trim(self, _: int) -> None:
        """A write that only SQL can do; there is nothing that it may remove."""
        entry = add(self.stream, *events(self.acknowledged + 1, 1, kind=KIND), trim=5)
        assert await self.one.append([entry]) == [COMMITTED]
        self.acknowledged += 1
        if not self.one._buffers.events:
            self._is_held()

    async def read(self, after: int) -> None:
        """A reader goes on from anywhere, on any worker, and gets the very next events."""
        after = min(after, self.acknowledged)
        for log in (self.one, self.two):
            page = [e.sequence for e in await log.read(self.stream.id, after, 256, 1 << 20)]
            assert page == list(range(after + 1, after + 1 + len(page)))
        mine = [n for n, _ in await read_all(self.one, self.stream)]
        assert mine == list(range(1, self.acknowledged + 1))
        theirs = [n for n, _ in await read_all(self.two, self.stream)]
        least = self.held if self.forgot else self.acknowledged
        assert theirs == list(range(1, len(theirs) + 1))
        assert len(theirs) >= least

    async def end(self) -> None:
        last = add(self.stream, ending=ending(self.acknowledged))
        assert await self.one.append([last]) == [COMMITTED]
        everything = [(n, 1) for n in range(1, self.acknowledged + 1)]
        for log in (self.one, self.two):
            assert await read_all(log, self.stream) == everything

    async def die(self, *, quite: bool = True) -> None:
        """The writer is gone, or only taken for gone; the heir ends the stream."""
        if quite:
            await die(self.one)
        await is_up(self.two)
        ended = await takeover.end(self.two, self.stream, 60.0, None)
        assert ended is not None
        assert ended.state is StreamState.FAILED
        there = ended.last_sequence - 1
        assert there <= self.acknowledged
        assert there >= (self.held if self.forgot else self.acknowledged)
        if not quite:
            late = add(self.stream, *events(self.acknowledged + 1, 1))
            assert COMMITTED not in await self.one.append([late])
            async with self.one._flusher.lock:
                await self.one._flusher.step()
        everything = [*((n, 1) for n in range(1, there + 1)), (there + 1, 2)]
        for log in (self.one, self.two):
            assert await read_all(log, self.stream) == everything
        with self.place.client as client:
            client.flushall()
        assert await read_all(self.two, self.stream) == everything


@given(steps=st.lists(STEPS, max_size=14), end=ENDS)
@settings(
    max_examples=50,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_every_schedule_keeps_what_was_acknowledged(
    place: Place, steps: list[tuple[str, int]], end: str
) -> None:
    async def run() -> None:
        async with (
            asyncio.timeout(20),
            place.worker("one") as one,
            place.worker("two") as two,
        ):
            hold_back(one)
            schedule = Schedule(place, one, two)
            await schedule.begin()
            for name, value in steps:
                await getattr(schedule, name)(value)
            match end:
                case "end":
                    await schedule.end()
                case "die":
                    await schedule.die()
                case _:
                    await schedule.die(quite=False)

    asyncio.run(run())
