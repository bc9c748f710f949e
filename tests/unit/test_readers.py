"""Whatever happens to a stream meanwhile, each reader gets what follows its position, once."""

import asyncio
import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_persist_middleware.log.base import EventLog, Purged
from mcp_persist_middleware.log.cursor import Cursor, Page
from mcp_persist_middleware.log.live import Limits, LiveStream
from mcp_persist_middleware.log.parts import WorkerTable
from mcp_persist_middleware.log.reads import Reads
from mcp_persist_middleware.model import (
    Beat,
    Ending,
    Event,
    EventKind,
    Outcome,
    Owner,
    StreamKind,
    StreamRecord,
    StreamState,
    StreamWrite,
)
from mcp_persist_middleware.protocol.event_id import EventIds, new_stream_id

KINDS = st.sampled_from(EventKind)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), KINDS),
        st.tuples(st.just("store"), st.integers(1, 5)),
        st.tuples(st.just("commit"), st.integers(1, 5)),
        st.tuples(st.just("attach"), st.integers(0, 30)),
        st.tuples(st.sampled_from(["detach", "read"]), st.integers(0, 3)),
        st.tuples(st.sampled_from(["degrade", "end"]), st.none()),
    ),
    max_size=60,
)


class MemoryLog(EventLog):
    """One stream, in memory."""

    name = "memory"
    secret = b""
    sessions: Any = None
    inbox: Any = None

    def __init__(self, record: StreamRecord) -> None:
        self.record: StreamRecord = record
        self.events: list[Event] = []
        self.durable: set[int] = set()
        """What has been durable, although retention may have taken it since."""

    async def open(self, worker: str) -> None: ...

    async def aclose(self) -> None: ...

    async def ping(self) -> None: ...

    def apply(self, write: StreamWrite) -> None:
        """Make an entry durable; a second time changes nothing."""
        self.events += [event for event in write.events if event.sequence not in self.durable]
        self.durable |= {event.sequence for event in write.events}
        for _ in range(write.trim):
            least = min(self.events, key=lambda e: (e.kind, e.sequence), default=None)
            if least is None or least.kind > EventKind.MESSAGE:
                break
            self.events.remove(least)
        if write.ending is not None:
            self.record = dataclasses.replace(
                self.record, state=write.ending.state, last_sequence=write.ending.last_sequence
            )

    async def append(self, batch: Sequence[StreamWrite]) -> list[Outcome]:
        raise NotImplementedError

    async def find(self, stream: bytes) -> StreamRecord | None:
        return self.record

    async def read(self, stream: bytes, after: int, max_events: int, max_bytes: int) -> list[Event]:
        await asyncio.sleep(0)
        return [event for event in self.events if event.sequence > after][: min(max_events, 3)]

    async def renew_readers(self, streams: Collection[bytes], seconds: float) -> None: ...

    async def reader_ttl(self, stream: bytes) -> float | None:
        return None

    def worker_table(self) -> WorkerTable:
        raise NotImplementedError

    async def workers(self) -> Mapping[str, Beat]:
        return {}

    async def declare_dead(self, worker: str, counter: int) -> bool:
        return False

    async def deregister(self, worker: str) -> None: ...

    async def active_writers(self) -> list[str]:
        return []

    async def open_streams_of(
        self, worker: str, limit: int, after: bytes = b""
    ) -> list[StreamRecord]:
        return []

    async def expire_session(self, namespace: str, path: str, session: str) -> None: ...

    async def purge(self, now: float, max_events: int) -> Purged:
        return Purged({}, more=False)


class World:
    """A stream, its store and its readers, moved step by step."""

    def __init__(self, limits: Limits, *, resumed: bool = False) -> None:
        self.resumed = resumed
        stream = new_stream_id()
        owner = Owner("default", "/mcp", "s", "")
        record = StreamRecord(
            stream, StreamKind.POST, owner, 1, StreamState.OPEN, 0, "w", 1.0, None, None, "[1]", ""
        )
        self.log = MemoryLog(record)
        self.live = LiveStream(record, EventIds.of(stream, StreamKind.POST, 1), limits)
        self.added: list[tuple[EventKind, bytes]] = []
        self.readers: list[Reader] = []

    async def step(self, name: str, value: Any) -> None:
        """Do one thing, if it can be done now."""
        live = self.live
        match name:
            case "add" if live.ending is None:
                self.added.append((value, b"%d" % (len(self.added) + 1)))
                live.add(*self.added[-1])
            case "store" if not live.degraded and live.has_work:
                # Durable, but the answer of the store does not arrive.
                write = live.next_write(value)
                if not write.trim:
                    self.log.apply(write)
            case "commit" if not live.degraded and live.has_work:
                write = live.next_write(value)
                self.log.apply(write)
                live.commit(write)
            case "attach":
                self.readers.append(Reader(self, min(value, live.committed)))
            case "degrade" if not live.ended:
                live.degrade()
            case "end" if live.ending is None:
                live.ending = Ending(StreamState.COMPLETE, live.last, 1.0, 2.0)
                live.ended = live.degraded
            case "read" | "detach" if self.readers:
                reader = self.readers[value % len(self.readers)]
                await (reader.read() if name == "read" else reader.detach())

    async def finish(self) -> None:
        """Let everything come to its end, and read it."""
        await self.step("end", None)
        while not self.live.ended:
            await self.step("commit", 1000)
        for reader in self.readers:
            await reader.drain()


class Reader:
    """One cursor, and all it was given."""

    def __init__(self, world: World, after: int) -> None:
        self.world, self.after = world, after
        self.got: list[Event] = []
        self.missing = self.passed = 0
        self.handed = world.live.handed
        self.ended = self.gone = False
        self.cursor = Cursor(
            Reads(world.log), world.live.record.id, after, world.live, resumed=world.resumed
        )
        world.live.attach()

    async def read(self) -> None:
        """The next page, when there is one."""
        live = self.world.live
        if self.gone or self.ended or not (live.visible > self.cursor.position or live.ended):
            return
        async with asyncio.timeout(5):
            page: Page = await self.cursor.next()
        for event in page.events:
            # Durable before visible: without an id only where the store has failed.
            assert live.degraded if event.epoch == 0 else event.sequence in self.world.log.durable
        self.got += page.events
        self.missing += page.missing
        self.passed += page.passed
        self.ended = page.ended

    async def detach(self) -> None:
        """Leave before the end."""
        if not self.gone:
            self.gone = True
            self.world.live.detach()

    async def drain(self) -> None:
        """Read to the end."""
        for _ in range(1000):
            if self.ended or self.gone:
                return
            await self.read()
        raise AssertionError("a reader does not come to the end")


def run(limits: Limits, steps: list[tuple[str, Any]], *, resumed: bool = False) -> World:
    """Play a schedule to its end."""
    world = World(limits, resumed=resumed)

    async def play() -> None:
        for name, value in steps:
            await world.step(name, value)
        await world.finish()

    asyncio.run(play())
    return world


WIDE = Limits(64, 1 << 20, 10_000, 1 << 30)
SHORT_TAIL = Limits(64, 1 << 20, 10_000, 1 << 30, tail_events=2)
FEW = Limits(64, 1 << 20, 4, 1 << 30, tail_events=2)


def expected(world: World, reader: Reader) -> list[tuple[int, EventKind, bytes]]:
    """All that was added after the reader's position."""
    return [(n, *event) for n, event in enumerate(world.added, 1) if n > reader.after]


@settings(max_examples=300, deadline=None)
@given(STEPS)
def test_each_reader_gets_every_later_event_once_and_in_order(steps: list[tuple[str, Any]]) -> None:
    world = run(WIDE, steps)
    for reader in world.readers:
        got = [(event.sequence, event.kind, event.frame) for event in reader.got]
        wanted = expected(world, reader)
        assert got == (wanted[: len(got)] if reader.gone else wanted)
        assert reader.missing == 0


@settings(max_examples=300, deadline=None)
@given(STEPS.filter(lambda steps: ("degrade", None) not in steps))
def test_a_short_tail_sends_readers_to_the_store(steps: list[tuple[str, Any]]) -> None:
    world = run(SHORT_TAIL, steps)
    for reader in world.readers:
        got = [(event.sequence, event.kind, event.frame) for event in reader.got]
        wanted = expected(world, reader)
        assert got == (wanted[: len(got)] if reader.gone else wanted)
        assert len(list(world.live._tail)) <= 2


@settings(max_examples=300, deadline=None)
@given(STEPS)
def test_what_was_given_up_is_counted_and_is_never_an_answer(steps: list[tuple[str, Any]]) -> None:
    world = run(FEW, steps)
    for reader in world.readers:
        numbers = [event.sequence for event in reader.got]
        assert numbers == sorted(set(numbers))
        if reader.gone:
            continue
        wanted = expected(world, reader)
        assert len(numbers) + reader.missing == len(wanted)
        assert {n for n, kind, _ in wanted if kind >= EventKind.REQUEST} <= set(numbers)


@settings(max_examples=300, deadline=None)
@given(STEPS, st.sampled_from([WIDE, FEW]))
def test_who_comes_back_gets_what_nobody_was_given_without_an_id_and_hears_of_the_rest(
    steps: list[tuple[str, Any]], limits: Limits
) -> None:
    world = run(limits, steps, resumed=True)
    for reader in world.readers:
        numbers = [event.sequence for event in reader.got]
        assert numbers == sorted(set(numbers))
        for event in reader.got:
            new = event.epoch or event.sequence > reader.handed
            assert new or event.kind is EventKind.RESPONSE
        if reader.gone:
            continue
        wanted = expected(world, reader)
        assert min(reader.missing, reader.passed) >= 0
        assert len(numbers) + reader.missing + reader.passed == len(wanted)
        assert limits is FEW or not reader.missing
        answers = {n for n, kind, _ in wanted if kind is EventKind.RESPONSE}
        assert answers <= set(numbers)


@settings(max_examples=100, deadline=None)
@given(STEPS)
def test_what_a_stream_holds_in_memory_is_bounded(steps: list[tuple[str, Any]]) -> None:
    world = run(SHORT_TAIL, steps)
    if not world.live.degraded:
        assert len(list(world.live._tail)) <= 2
    world = World(Limits(3, 100, 10_000, 1 << 30))
    for n in range(3):
        assert not world.live.is_full(64), n
        world.live.add(EventKind.MESSAGE, b"x")
    assert world.live.is_full(64)
    assert World(Limits(3, 100, 10_000, 1 << 30)).live.is_full(0)
