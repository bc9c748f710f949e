"""A reader of a stream that another worker writes: whatever is committed between two of its looks
at the store, nothing is passed over."""

import asyncio

import pytest

from mcp_persist_middleware.log.cursor import Cursor
from mcp_persist_middleware.model import (
    Ending,
    Event,
    EventKind,
    Owner,
    StreamKind,
    StreamRecord,
    StreamState,
    StreamWrite,
)
from mcp_persist_middleware.protocol.event_id import new_stream_id
from mcp_persist_middleware.signals.base import Polling
from tests.unit.test_readers import MemoryLog

ENDING = Ending(StreamState.COMPLETE, 4, 1.0, 2.0)


def events(first: int, last: int) -> tuple[Event, ...]:
    return tuple(Event(n, 1, EventKind.MESSAGE, b"%d" % n) for n in range(first, last + 1))


class Writing(MemoryLog):
    """Another worker commits the last events and the end just before one chosen look."""

    def __init__(self, before: int) -> None:
        owner = Owner("default", "/mcp", "s", "")
        stream, kind, state = new_stream_id(), StreamKind.POST, StreamState.OPEN
        record = StreamRecord(stream, kind, owner, 1, state, 0, "w", 1.0, None, None, "[1]", "")
        super().__init__(record)
        self.apply(StreamWrite(stream, 1, events=events(1, 2)))
        self._before = before
        self._looks = 0

    def _look(self) -> None:
        if self._looks == self._before:
            self.apply(StreamWrite(self.record.id, 1, events=events(3, 4), ending=ENDING))
        self._looks += 1

    async def find(self, stream: bytes) -> StreamRecord | None:
        self._look()
        return self.record

    async def read(self, stream: bytes, after: int, max_events: int, max_bytes: int) -> list[Event]:
        self._look()
        return [event for event in self.events if event.sequence > after]


class Patient(Writing):
    """Its readers wait to be woken."""

    wakeups = Polling(3600)


@pytest.mark.parametrize("before", range(8))
async def test_what_ends_a_stream_is_read_whenever_it_is_committed(before: int) -> None:
    log = Writing(before)
    cursor = Cursor(log, log.record.id, 0, None, resumed=True)
    got: list[int] = []
    async with asyncio.timeout(10):
        while not (page := await cursor.next()).ended:
            got += [event.sequence for event in page.events]
            assert not page.missing
    assert got == [1, 2, 3, 4]
    assert not page.events
    assert not page.missing
    cursor.close()


async def test_a_waiting_reader_that_is_stopped_comes_to_its_end_at_once() -> None:
    log = Patient(before=10**9)
    cursor = Cursor(log, log.record.id, 2, None, resumed=True)
    waiting = asyncio.create_task(cursor.next())
    while cursor._subscription is None or not cursor._subscription._signal._waiters:
        await asyncio.sleep(0)
    cursor.stop()
    async with asyncio.timeout(10):
        assert (await waiting).ended
    cursor.close()
