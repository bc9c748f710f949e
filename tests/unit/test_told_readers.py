"""A reader of a stream that another worker writes, whose wake-ups all come, late, doubled and in
any order, and which looks by itself never: it has every event and the end, whatever was told."""

import asyncio
import dataclasses
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_persist_middleware.log import cursor as cursor_module
from mcp_persist_middleware.log.cursor import Cursor
from mcp_persist_middleware.log.reads import Reads
from mcp_persist_middleware.model import (
    Ending,
    Event,
    EventKind,
    HighWater,
    Owner,
    StreamKind,
    StreamRecord,
    StreamState,
    StreamWrite,
)
from mcp_persist_middleware.protocol.event_id import new_stream_id
from mcp_persist_middleware.wakeups.base import Polling
from tests.unit.test_readers import MemoryLog


class Elsewhere(MemoryLog):
    """What another worker does to its one stream, with the wake-ups that are on their way."""

    wakeups = Polling(3600)

    def __init__(self) -> None:
        owner = Owner("default", "/mcp", "s", "")
        stream, kind, state = new_stream_id(), StreamKind.POST, StreamState.OPEN
        super().__init__(
            StreamRecord(stream, kind, owner, 1, state, 0, "w", 1.0, None, None, "[1]", "")
        )
        self.on_their_way: list[HighWater | None] = []

    @property
    def last(self) -> int:
        return self.events[-1].sequence if self.events else 0

    def _commit(self, write: StreamWrite) -> None:
        self.apply(write)
        self.on_their_way.append(write.high_water)

    def _events(self, count: int) -> tuple[Event, ...]:
        epoch, first = self.record.epoch, self.last + 1
        return tuple(
            Event(n, epoch, EventKind.MESSAGE, b"%d of %d" % (n, epoch))
            for n in range(first, first + count)
        )

    def add(self, count: int) -> None:
        """Events, and nothing else."""
        self._commit(StreamWrite(self.record.id, self.record.epoch, events=self._events(count)))

    def take_over(self, forgotten: int, count: int) -> None:
        """The last events are forgotten, and others are in their place, or are not yet."""
        del self.events[len(self.events) - forgotten :]
        self.durable = {event.sequence for event in self.events}
        before, epoch = self.record.epoch, self.record.epoch + 1
        self.record = dataclasses.replace(self.record, epoch=epoch)
        events = self._events(count)
        self._commit(StreamWrite(self.record.id, epoch, takes_over=before, events=events))

    def end(self, count: int) -> None:
        """The last events, and the end with them."""
        events = self._events(count)
        ending = Ending(StreamState.COMPLETE, self.last + count, 1.0, 2.0)
        write = StreamWrite(self.record.id, self.record.epoch, events=events, ending=ending)
        self._commit(write)


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def read(cursor: Cursor, got: dict[int, Event]) -> None:
    """All, as a client keeps it: of a number that comes again the later event counts."""
    while not (page := await cursor.next()).ended:
        got |= {event.sequence: event for event in page.events}
    got |= {event.sequence: event for event in page.events}


def has(log: Elsewhere, got: dict[int, Event]) -> bool:
    """Whether a client has what there is."""
    return all(got.get(event.sequence) == event for event in log.events)


# More turns of the event loop than any reader needs.
_LONG = 200
Step = tuple[str, Any]
counts = st.integers(0, 4)
steps = st.one_of(
    st.tuples(st.just("add"), st.integers(1, 4)),
    st.tuples(st.just("take over"), st.tuples(st.integers(0, 3), counts)),
    st.tuples(st.just("deliver"), st.integers(0, 50)),
    st.tuples(st.just("deliver twice"), st.integers(0, 50)),
    st.tuples(st.just("run"), st.integers(1, 12)),
    st.tuples(st.just("deliver all"), st.none()),
)


@settings(max_examples=300, deadline=None)
@given(
    schedule=st.lists(steps, max_size=30),
    count=counts,
    back=st.integers(0, 3),
    newest_first=st.booleans(),
    pause=st.sampled_from([0, 5]),
)
async def test_it_has_all_events_and_the_end(
    schedule: list[Step], count: int, back: int, *, newest_first: bool, pause: int
) -> None:
    with pytest.MonkeyPatch.context() as patched:
        # It does not look again after a moment either, but at once.
        patched.setattr(cursor_module, "_MOMENT", 0.0)
        log, got = Elsewhere(), dict[int, Event]()
        log.add(3)
        got |= {event.sequence: event for event in log.events if event.sequence <= back}
        cursor = Cursor(Reads(log), log.record.id, back, None, resumed=True, epoch=1)
        reading = asyncio.create_task(read(cursor, got))

        def deliver(which: int, *, once: bool = True) -> None:
            if log.on_their_way and cursor._subscription is not None:
                n = which % len(log.on_their_way)
                told = log.on_their_way.pop(n) if once else log.on_their_way[n]
                cursor._subscription.notify(told)

        for step, argument in schedule:
            match step:
                case "add":
                    log.add(argument)
                case "take over":
                    log.take_over(min(argument[0], len(log.events)), argument[1])
                case "deliver":
                    deliver(argument)
                case "deliver twice":
                    deliver(argument, once=False)
                case "deliver all":
                    await turns(_LONG)
                    for _ in list(log.on_their_way):
                        deliver(0)
                    await turns(_LONG)
                    # Not when the next one comes.
                    assert has(log, got)
                case _:
                    await turns(argument)
        log.end(count)
        await turns(_LONG)
        for _ in list(log.on_their_way):
            deliver(len(log.on_their_way) - 1 if newest_first else 0)
            await turns(pause)
        await turns(_LONG)
        assert reading.done()
        await reading
        cursor.close()
    assert has(log, got)
