"""A reader of a stream that another worker writes: whatever is committed between two of its looks
at the store, nothing is passed over."""

import asyncio
import math

import pytest

from mcp_persist_middleware.errors import StoreError
from mcp_persist_middleware.log.cursor import Cursor, Page
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
from mcp_persist_middleware.wakeups.base import Polling, Subscription
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
    cursor = Cursor(Reads(log), log.record.id, 0, None, resumed=True)
    got: list[int] = []
    async with asyncio.timeout(10):
        while not (page := await cursor.next()).ended:
            got += [event.sequence for event in page.events]
            assert not page.missing
    assert got == [1, 2, 3, 4]
    assert not page.events
    assert not page.missing
    cursor.close()


async def following(log: Patient) -> tuple[Cursor, asyncio.Task[Page]]:
    """A reader that has read all, and waits to be woken."""
    cursor = Cursor(Reads(log), log.record.id, 2, None, resumed=True, epoch=1)
    waiting = asyncio.create_task(cursor.next())
    while cursor._subscription is None or not cursor._subscription._signal._waiters:
        await asyncio.sleep(0)
    return cursor, waiting


async def test_a_waiting_reader_that_is_stopped_comes_to_its_end_at_once() -> None:
    log = Patient(before=10**9)
    cursor, waiting = await following(log)
    cursor.stop()
    async with asyncio.timeout(10):
        assert (await waiting).ended
    cursor.close()


async def test_a_reader_that_follows_asks_the_store_once_for_what_it_is_woken_for() -> None:
    log = Patient(before=10**9)
    cursor, waiting = await following(log)
    before = log._looks
    for number in range(3, 23):
        log.apply(StreamWrite(log.record.id, 1, events=events(number, number)))
        assert cursor._subscription is not None
        cursor._subscription.notify()
        async with asyncio.timeout(10):
            page = await waiting
        assert [event.sequence for event in page.events] == [number]
        waiting = asyncio.create_task(cursor.next())
        await turns()
    # A machine that stands still in between lets one look again.
    assert log._looks - before < 30
    waiting.cancel()
    cursor.close()


async def test_who_is_told_how_far_a_stream_is_asks_no_more_than_once_for_what_comes() -> None:
    """Whatever tells it, and however often: not whether it is over either."""
    log = Patient(before=10**9)
    cursor, waiting = await following(log)
    subscription = cursor._subscription
    assert subscription is not None
    subscription.notify()
    await turns()
    before = log._looks
    for number in range(3, 23):
        log.apply(StreamWrite(log.record.id, 1, events=events(number, number)))
        told = HighWater(1, number)
        subscription.notify(told)
        async with asyncio.timeout(10):
            page = await waiting
        assert [event.sequence for event in page.events] == [number]
        waiting = asyncio.create_task(cursor.next())
        await turns()
        subscription.notify(told)
        subscription.notify(HighWater(1, number - 1))
        await asyncio.sleep(0.1 if number == 12 else 0)  # twice as long as it would wait otherwise
        await turns()
    assert log._looks - before == 20
    waiting.cancel()
    cursor.close()


@pytest.mark.parametrize(
    "told",
    [
        pytest.param([None], id="anything"),
        pytest.param([HighWater(1, 2), None], id="more beside"),
        pytest.param([None, HighWater(1, 2)], id="more before"),
        pytest.param([HighWater(2, 2)], id="another epoch"),
        pytest.param([HighWater(2, 1), HighWater(1, 2)], id="another epoch before"),
        pytest.param([HighWater(1, 3), HighWater(1, 2)], id="out of order"),
    ],
)
async def test_who_may_lack_something_looks(told: list[HighWater | None]) -> None:
    log = Patient(before=10**9)
    cursor, waiting = await following(log)
    log.apply(StreamWrite(log.record.id, 1, events=events(3, 3)))
    assert cursor._subscription is not None
    for each in told:
        cursor._subscription.notify(each)
    async with asyncio.timeout(10):
        page = await waiting
    assert [event.sequence for event in page.events] == [3]
    cursor.close()


async def test_the_end_of_a_stream_is_seen_by_who_was_told_how_far_it_was() -> None:
    log = Patient(before=10**9)
    cursor, waiting = await following(log)
    subscription = cursor._subscription
    assert subscription is not None
    log.apply(StreamWrite(log.record.id, 1, events=events(3, 4)))
    subscription.notify(HighWater(1, 4))
    assert len((await waiting).events) == 2
    waiting = asyncio.create_task(cursor.next())
    await turns()
    log.apply(StreamWrite(log.record.id, 1, ending=ENDING))
    subscription.notify()
    async with asyncio.timeout(10):
        assert (await waiting).ended
    cursor.close()


async def test_a_reader_that_has_just_asked_to_be_woken_looks_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Something may have been committed between its last look and that."""
    waits, wait = list[float](), Subscription.wait

    async def noted(
        subscription: Subscription, most: float = math.inf, has: HighWater | None = None
    ) -> None:
        waits.append(most)
        await wait(subscription, most, has)

    monkeypatch.setattr(Subscription, "wait", noted)
    log = Patient(before=10**9)
    cursor = Cursor(Reads(log), log.record.id, 0, None, resumed=True)
    assert len((await cursor.next()).events) == 2
    waiting = asyncio.create_task(cursor.next())
    while cursor._subscription is None or not cursor._subscription._signal._waiters:
        await asyncio.sleep(0)
    assert waits == [math.inf] * 2, "the first one returns at once"
    waiting.cancel()
    cursor.close()


class Asked(Writing):
    """It answers when it is told to, and counts."""

    def __init__(self) -> None:
        super().__init__(before=10**9)
        self.asked: list[asyncio.Future[list[Event]]] = []

    async def read(self, stream: bytes, after: int, max_events: int, max_bytes: int) -> list[Event]:
        self.asked.append(asyncio.get_running_loop().create_future())
        return await self.asked[-1]


async def turns() -> None:
    """Let everything run that can."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_readers_of_one_page_share_one_read_and_one_copy() -> None:
    log = Asked()
    reads = Reads(log)
    waiting = [asyncio.create_task(reads.page(b"s", 1, 0)) for _ in range(5)]
    await turns()
    log.asked[0].set_result(list(events(1, 2)))
    first, *others = await asyncio.gather(*waiting)
    assert all(other is first for other in others)
    assert await reads.page(b"s", 1, 0) is first
    # Whoever found the stream in a later epoch asks for itself, and so does one that comes when
    # nobody holds the page any more.
    later = asyncio.create_task(reads.page(b"s", 2, 0))
    await turns()
    assert len(log.asked) == 2
    del first, others
    waiting.clear()
    again = asyncio.create_task(reads.page(b"s", 1, 0))
    await turns()
    assert len(log.asked) == 3
    for asked in log.asked[1:]:
        asked.set_result([])
    assert await asyncio.gather(later, again) == [[], []]


async def test_that_another_reader_found_nothing_is_not_taken_for_an_answer() -> None:
    log = Asked()
    reads = Reads(log)
    early = asyncio.create_task(reads.page(b"s", 1, 0))
    await turns()
    # An event is committed here: these have been told of it, and look.
    woken = [asyncio.create_task(reads.page(b"s", 1, 0)) for _ in range(5)]
    await turns()
    log.asked[0].set_result([])
    await turns()
    assert early.done()
    # One read more, for all of them.
    assert len(log.asked) == 2
    log.asked[1].set_result(list(events(1, 1)))
    assert [len(page) for page in await asyncio.gather(*woken)] == [1] * 5


async def test_a_reader_that_leaves_takes_no_other_with_it_and_a_failure_is_everybodys() -> None:
    log = Asked()
    reads = Reads(log)
    waiting = [asyncio.create_task(reads.page(b"s", 1, 0)) for _ in range(5)]
    await turns()
    waiting[0].cancel()
    waiting[3].cancel()
    await turns()
    assert len(log.asked) == 2
    log.asked[1].set_exception(StoreError(url="memory", reason="away"))
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [
        asyncio.CancelledError,
        StoreError,
        StoreError,
        asyncio.CancelledError,
        StoreError,
    ]
    assert len(log.asked) == 2


async def test_who_may_not_deliver_a_page_has_it_again_as_soon_as_it_may() -> None:
    """A newer connection was to have it, and left without; no other wake-up comes."""
    log = Patient(before=10**9)
    cursor, waiting = await following(log)
    log.apply(StreamWrite(log.record.id, 1, events=events(3, 3)))
    assert cursor._subscription is not None
    cursor._subscription.notify(HighWater(1, 3))
    async with asyncio.timeout(10):
        assert len((await waiting).events) == 1
        cursor.go_to(2)
        page = await cursor.next()
    assert [event.sequence for event in page.events] == [3]
    cursor.close()
