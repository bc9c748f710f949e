"""Events on a fast path wait for nothing that goes to SQL, and what does not take that path, or
finds it gone, is committed all the same."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mcp_persist_middleware.log.cursor import Cursor
from mcp_persist_middleware.log.live import Limits, LiveStream
from mcp_persist_middleware.log.queue import Batch
from mcp_persist_middleware.log.reads import Reads
from mcp_persist_middleware.log.writer import Writer
from mcp_persist_middleware.model import Ending, Event, EventKind, StreamState
from mcp_persist_middleware.protocol.event_id import EventIds
from mcp_persist_middleware.stores.redis.log import RedisLog
from mcp_persist_middleware.testing.contract.builders import COMMITTED, add, events, new, record
from tests.contract.lanes import FRAME, FULL, begun, fresh
from tests.contract.redis_builders import Place, flushed
from tests.contract.test_writer_lanes import GatedLog
from tests.support.scripted import until

pytestmark = pytest.mark.timeout(60)
LARGE = b"data: " + b"x" * (1 << 20) + b"\r\n"
ANSWER = b"data: answer\r\n"


def ended(stream_last: int) -> Ending:
    """An end from now on."""
    now = time.time()
    return Ending(StreamState.COMPLETE, stream_last, now, now + 60)


class ComesAndGoes(GatedLog):
    """A log whose fast path is there or not."""

    is_up = True

    @property
    def has_fast_path(self) -> bool:
        return self.is_up


@pytest.fixture
async def flighty(tmp_path: Path) -> AsyncIterator[tuple[ComesAndGoes, Writer]]:
    """That log, and a writer that has begun."""
    log = ComesAndGoes(tmp_path / "events.db")
    await log.open("one")
    writer = Writer(log, 60.0)
    writer.start()
    await begun(writer)
    yield log, writer
    await writer.aclose(2)
    await log.aclose()


def leaves_between(log: ComesAndGoes, writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the fast path gone when the first committer has looked and the second has not."""
    first = writer._first_batch

    def then_gone() -> Batch:
        asyncio.get_running_loop().call_soon(setattr, log, "is_up", False)
        return first()

    monkeypatch.setattr(writer, "_first_batch", then_gone)


async def test_what_begins_while_the_fast_path_goes_away_is_committed(
    flighty: tuple[ComesAndGoes, Writer], monkeypatch: pytest.MonkeyPatch
) -> None:
    log, writer = flighty
    leaves_between(log, writer, monkeypatch)
    stream = fresh()
    writer.open(stream)
    await until(lambda: stream.created, 5)


async def test_what_ends_while_the_fast_path_goes_away_is_committed(
    flighty: tuple[ComesAndGoes, Writer], monkeypatch: pytest.MonkeyPatch
) -> None:
    log, writer = flighty
    stream = await begun(writer)
    leaves_between(log, writer, monkeypatch)
    stream.add(EventKind.RESPONSE, ANSWER)
    writer.end(stream, ended(stream.last), is_told=True)
    await until(lambda: stream.ended, 5)


async def goes_on(writer: Writer, running: LiveStream) -> None:
    """A stream whose events Redis takes has three more within a moment."""
    for _ in range(3):
        await writer.append(running, [(EventKind.MESSAGE, FRAME)])
        await until(lambda: running.committed == running.last, 2)


@pytest.mark.parametrize("why", ["quiet", "large"])
async def test_events_wait_for_no_event_of_others_that_goes_to_sql(place: Place, why: str) -> None:
    async with place.worker("one") as log:
        writer = Writer(log, 60.0)
        writer.start()
        running, other = await begun(writer), await begun(writer)
        await writer.append(running, [(EventKind.MESSAGE, FRAME)])
        await until(lambda: running.committed == 1)
        buffer = log._buffers.get(other.record.id)
        assert buffer is not None
        if why == "quiet":
            buffer.confirmed -= 60  # a minute has passed
        frame = FRAME if why == "quiet" else LARGE
        with place.sql_locked():
            # It waits as long as its stream is full.
            slow = asyncio.create_task(writer.append(other, [(EventKind.MESSAGE, frame)]))
            await until(lambda: other.last == 1)
            await goes_on(writer, running)
            assert other.committed == 0
        await slow
        await until(lambda: other.committed == 1)
        await writer.aclose(10)


async def test_events_wait_for_no_stream_of_others_that_is_over_its_limit(place: Place) -> None:
    async with place.worker("one") as log:
        writer = Writer(log, 60.0)
        writer.start()
        running, made = await begun(writer), record()
        ids = EventIds.of(made.id, made.kind, 1)
        long = LiveStream(made, ids, Limits(FULL, 1 << 20, 10, 1 << 26))
        writer.open(long)
        await until(lambda: long.created)
        for _ in range(10):  # as many as it may have
            await writer.append(long, [(EventKind.MESSAGE, FRAME)])
            await until(lambda: long.committed == long.last)
        await writer.append(running, [(EventKind.MESSAGE, FRAME)])
        await until(lambda: running.committed == 1)
        with place.sql_locked():
            await writer.append(long, [(EventKind.MESSAGE, FRAME)])
            await asyncio.sleep(0)
            await goes_on(writer, running)
        await until(lambda: long.committed == 11)
        await writer.aclose(10)


@pytest.mark.parametrize("why", ["lost", "fenced"])
async def test_events_wait_for_no_stream_of_others_that_redis_refuses(
    place: Place, why: str
) -> None:
    async with place.worker("one") as log:
        writer = Writer(log, 60.0)
        writer.start()
        running, other = await begun(writer), await begun(writer)
        for each in (running, other):
            await writer.append(each, [(EventKind.MESSAGE, FRAME)])
            await until(lambda each=each: each.committed == 1)  # type: ignore[misc]
        head, chunks = log._keys.of(other.record.id)
        with contextlib.closing(place.client) as client:
            if why == "lost":
                client.delete(head, chunks)
            else:
                client.hset(head, "epoch", "9")
        with place.sql_locked():
            await writer.append(other, [(EventKind.MESSAGE, FRAME)])
            # Its batch is answered, and it waits for SQL.
            await until(lambda: writer._is_slow)
            await goes_on(writer, running)
        await writer.aclose(10)


def waits_for_room(log: RedisLog, monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Set when a batch waits until there is room again."""
    waits, room = asyncio.Event(), log._buffers.room

    async def noted() -> None:
        waits.set()
        await room()

    monkeypatch.setattr(log._buffers, "room", noted)
    return waits


async def test_streams_that_are_erased_one_by_one_while_others_wait_cost_them_nothing(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcp_persist_middleware.stores.redis.write_behind._MAX_EVENTS", 10)
    async with place.worker("one") as one:
        writer = Writer(one, 60.0)
        writer.start()
        gone, later, other = await begun(writer), await begun(writer), await begun(writer)
        filler = record()
        await one.append([new(filler)])
        waits = waits_for_room(one, monkeypatch)
        with place.sql_locked():
            await writer.append(later, [(EventKind.MESSAGE, FRAME)])
            await until(lambda: later.committed == 1)
            assert await one.append([add(filler, *events(1, 9))]) == [COMMITTED], "no room left"
            waits.clear()
            for each in (gone, later, other):
                await writer.append(each, [(EventKind.MESSAGE, FRAME)])
            await asyncio.wait_for(waits.wait(), 5)
            # Somebody is forgotten.
            erased = [gone.record.id, filler.id, later.record.id]
            erasing = asyncio.create_task(one._eraser.erase(one._keys, erased))
            await until(lambda: one._buffers.get(gone.record.id) is None)
        await erasing
        await until(lambda: other.committed == 1 or other.degraded)
        assert not other.degraded
        await writer.aclose(5)


async def test_a_stream_that_is_lost_while_others_wait_for_room_costs_them_nothing(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcp_persist_middleware.stores.redis.write_behind._MAX_EVENTS", 10)
    async with place.worker("one") as one:
        writer = Writer(one, 60.0)
        writer.start()
        gone, other, filler = await begun(writer), await begun(writer), record()
        await one.append([new(filler)])
        waits = waits_for_room(one, monkeypatch)
        with place.sql_locked():
            assert await one.append([add(filler, *events(1, 10))]) == [COMMITTED], "no room left"
            waits.clear()
            await writer.append(gone, [(EventKind.MESSAGE, FRAME)])
            await writer.append(other, [(EventKind.MESSAGE, FRAME)])
            await asyncio.wait_for(waits.wait(), 5)
            # Somebody is forgotten, or the flush finds that the stream was taken over.
            buffer = one._buffers.get(gone.record.id)
            assert buffer is not None
            one._buffers.drop(buffer)
        await until(lambda: other.committed == 1)
        assert not other.degraded
        await writer.aclose(5)


async def test_a_reader_elsewhere_gets_the_answer_of_a_stream_that_went_on_in_a_later_epoch(
    place: Place,
) -> None:
    """It has read an event that only Redis had, whose number is the answer's now."""
    stream = record(worker="one")
    async with place.worker("one") as one, place.worker("two") as two:
        await one.append([new(stream, *events(1, 1))])
        await flushed(one)
        cursor, got = Cursor(Reads(two), stream.id, 0, None, resumed=True), list[Event]()

        async def follow() -> None:
            while not (page := await cursor.next()).ended:
                got.extend(page.events)
            got.extend(page.events)

        task = asyncio.create_task(follow())
        with place.sql_locked():
            assert await one.append([add(stream, *events(2, 1))]) == [COMMITTED]
            await until(lambda: len(got) == 2)
            # It goes on without the log, as what cannot be committed for long.
            place.client.flushall()
            buffer = one._buffers.get(stream.id)
            assert buffer is not None
            one._buffers.drop(buffer)
        answer = Event(2, 2, EventKind.RESPONSE, ANSWER)
        last = add(stream, answer, epoch=2, takes_over=1, worker="one", ending=ended(2))
        assert await one.inner.append([last]) == [COMMITTED]
        await asyncio.wait_for(task, 10)
        assert [each.frame for each in got if each.kind is EventKind.RESPONSE] == [ANSWER]
        cursor.close()


async def test_many_large_reads_do_not_take_redis_for_gone(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    streams, ended = [record() for _ in range(32)], list[bool]()
    async with place.worker("one") as one, place.worker("two") as two:
        await one.append([new(each) for each in streams])
        for number in range(1, 5):
            large = Event(number, 1, EventKind.MESSAGE, LARGE[:1_000_000])
            for each in streams:
                await one.append([add(each, large)])
        await flushed(one)
        sent, under_way, exchange = list[int](), list[int](), two._client.exchange

        async def counted(calls):  # type: ignore[no-untyped-def]
            sent.append(len(calls))
            under_way.append(len(sent) - len(ended))
            try:
                return await exchange(calls)
            finally:
                ended.append(True)

        monkeypatch.setattr(two._client, "exchange", counted)
        pages = await asyncio.gather(*[two.read(each.id, 0, 256, 256 * 1024) for each in streams])
        assert {len(page) for page in pages} == {1}
        assert two._client.is_up
        assert set(sent) == {1}, "what has much to say keeps nobody else waiting"
        assert max(under_way) <= 4
