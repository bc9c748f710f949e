"""A reader on another worker that has read what the store then forgot, or its writer gave up: where
the stream goes on in a later epoch the reader goes on at its first event."""

import asyncio
import dataclasses

import pytest

from mcp_persist_middleware.log.cursor import Cursor
from mcp_persist_middleware.log.reads import Reads
from mcp_persist_middleware.log.takeover import rewound
from mcp_persist_middleware.model import (
    Event,
    EventKind,
    Owner,
    StreamKind,
    StreamRecord,
    StreamState,
)
from mcp_persist_middleware.protocol.event_id import Position, new_stream_id
from mcp_persist_middleware.streams.resume import _point
from mcp_persist_middleware.wakeups.base import Polling
from tests.support.scripted import until
from tests.unit.test_readers import MemoryLog

A, B = (Event(number, 2, EventKind.RESPONSE, b"%d" % number) for number in (2, 3))


class Forgetful(MemoryLog):
    """It has an event that it will forget."""

    wakeups = Polling(0.02)

    def __init__(self) -> None:
        owner = Owner("default", "/mcp", "s", "")
        stream, kind, state = new_stream_id(), StreamKind.POST, StreamState.OPEN
        super().__init__(
            StreamRecord(stream, kind, owner, 1, state, 0, "w", 1.0, None, None, "[1]", "")
        )
        self.events = [Event(n, 1, EventKind.MESSAGE, b"one") for n in (1, 2)]
        self.asked = asyncio.Event()
        self.is_slow = False
        self.looks = self.asked_for_one = 0

    def goes_on(self, *more: Event, ends: bool = False) -> None:
        """In the next epoch, behind what is left."""
        self.events = [event for event in self.events if event.sequence < 2]
        self.events += more
        state = StreamState.COMPLETE if ends else StreamState.OPEN
        last = more[-1].sequence if ends else 0
        self.record = dataclasses.replace(self.record, epoch=2, state=state, last_sequence=last)

    async def read(self, stream: bytes, after: int, max_events: int, max_bytes: int) -> list[Event]:
        self.looks += 1
        self.asked_for_one += max_events == 1
        if max_events == 1 and self.is_slow:  # who goes back asks for one
            self.asked.set()
            await asyncio.sleep(3600)
        return await super().read(stream, after, max_events, max_bytes)


@pytest.fixture
async def log() -> Forgetful:
    return Forgetful()


async def reader(log: Forgetful) -> Cursor:
    """One that has read both events."""
    cursor = Cursor(Reads(log), log.record.id, 0, None, resumed=True, epoch=1)
    assert len((await cursor.next()).events) == 2
    return cursor


async def rest(cursor: Cursor) -> list[Event]:
    """All that follows."""
    got: list[Event] = []
    async with asyncio.timeout(5):
        while not (page := await cursor.next()).ended:
            assert not page.missing
            got += page.events
    return got + list(page.events)


async def reads_on(log: Forgetful, cursor: Cursor) -> None:
    """It waits, and has the answer that comes then."""
    following = asyncio.create_task(rest(cursor))
    while cursor._subscription is None:
        await asyncio.sleep(0)
    log.goes_on(A, ends=True)
    assert await following == [A]


@pytest.mark.parametrize("more", [[A], [A, B]], ids=["one event", "two events"])
async def test_all_of_the_later_epoch_is_read(log: Forgetful, more: list[Event]) -> None:
    cursor = await reader(log)
    log.goes_on(*more, ends=True)
    assert await rest(cursor) == more


async def test_all_of_it_is_read_in_a_stream_that_goes_on(log: Forgetful) -> None:
    cursor = await reader(log)
    log.goes_on(A, B)
    async with asyncio.timeout(5):
        page = await cursor.next()
    assert page.events == [A, B]
    log.goes_on(A, B, ends=True)
    assert await rest(cursor) == []


async def test_who_came_back_with_the_forgotten_event_reads_on_too(log: Forgetful) -> None:
    cursor = Cursor(Reads(log), log.record.id, 2, None, resumed=True, epoch=1)
    await reads_on(log, cursor)


async def test_who_comes_back_before_the_later_epoch_has_an_event_reads_on_too(
    log: Forgetful,
) -> None:
    log.goes_on()
    seen = Position(log.record.id, log.record.kind, 1, 2, "")
    seen = await rewound(log, seen, log.record)
    cursor = Cursor(
        Reads(log),
        log.record.id,
        seen.sequence,
        None,
        resumed=True,
        epoch=log.record.epoch,
        given=seen.epoch,
    )
    await reads_on(log, cursor)


async def test_who_comes_back_from_an_epoch_that_the_store_has_forgotten_reads_on_too(
    log: Forgetful,
) -> None:
    """A failover has lost the takeover with its events, and there is another one."""
    seen = Position(log.record.id, log.record.kind, 2, 2, "")
    point = _point(await rewound(log, seen, log.record), log.record, None)
    cursor = Cursor(
        Reads(log),
        log.record.id,
        point.after,
        None,
        resumed=True,
        epoch=point.epoch,
        given=point.given,
    )
    await reads_on(log, cursor)


async def test_who_has_what_the_store_has_is_asked_for_it_once(log: Forgetful) -> None:
    """In whatever epoch the stream is by now."""
    cursor = await reader(log)
    log.record = dataclasses.replace(log.record, epoch=2)
    following = asyncio.create_task(cursor.next())
    asked = log.asked_for_one
    await until(lambda: log.asked_for_one > asked)
    looks = log.looks
    await until(lambda: log.looks > looks + 5)
    assert log.asked_for_one == asked + 1
    following.cancel()


async def test_who_looks_before_the_later_epoch_has_an_event_reads_on_too(log: Forgetful) -> None:
    cursor = await reader(log)
    log.goes_on()
    await reads_on(log, cursor)


async def test_a_wait_that_is_given_up_while_it_goes_back_forgets_nothing(log: Forgetful) -> None:
    cursor = await reader(log)
    log.goes_on(A, ends=True)
    log.is_slow = True
    waiting = asyncio.create_task(cursor.next())
    await asyncio.wait_for(log.asked.wait(), 5)
    waiting.cancel()
    await asyncio.wait([waiting])
    log.is_slow = False
    assert await rest(cursor) == [A]
