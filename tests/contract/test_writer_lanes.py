"""A writer with two batches on their way: what happens to one, the other's streams are whole."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from sqlalchemy import make_url

from mcp_persist_middleware.errors import StoreError
from mcp_persist_middleware.log.live import LiveStream
from mcp_persist_middleware.log.writer import Writer
from mcp_persist_middleware.model import Ending, EventKind, Outcome, StreamState, StreamWrite
from mcp_persist_middleware.stores.sqlite.log import SqliteLog
from mcp_persist_middleware.supervision import Supervisor
from mcp_persist_middleware.testing.contract.builders import numbers
from tests.contract.lanes import FRAME, FULL, begun, fresh
from tests.support.scripted import until

pytestmark = pytest.mark.timeout(60)


class GatedLog(SqliteLog):
    """A file whose commits wait, from a moment on, until the test lets them go or fail."""

    max_in_flight = 2

    def __init__(self, path: Path) -> None:
        super().__init__(
            make_url(f"sqlite+aiosqlite:///{path}"), prefix="mcp_", timeout=5, synchronous="normal"
        )
        self.gates: dict[bytes, asyncio.Future[None]] | None = None
        """By the first stream of what waits."""

    async def append(self, batch: Sequence[StreamWrite]) -> list[Outcome]:
        if self.gates is not None and batch:
            gate = self.gates[batch[0].id] = asyncio.get_running_loop().create_future()
            await gate
        return await super().append(batch)

    def fail(self, stream: LiveStream) -> None:
        """Let a batch fail."""
        assert self.gates is not None
        self.gates.pop(stream.record.id).set_exception(StoreError(url=self.name, reason="test"))

    def let_all(self) -> None:
        """Hold nothing any more."""
        gates, self.gates = self.gates or {}, None
        for gate in gates.values():
            if not gate.done():
                gate.set_result(None)

    def let(self, stream: LiveStream) -> None:
        """Let a batch go on to the file."""
        assert self.gates is not None
        self.gates.pop(stream.record.id).set_result(None)


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[GatedLog]:
    """An open log."""
    made = GatedLog(tmp_path / "events.db")
    await made.open("one")
    yield made
    await made.aclose()


@pytest.fixture
async def writer(log: GatedLog) -> AsyncIterator[Writer]:
    """A writer that gives an outage no time."""
    made = Writer(log, 0.0)
    made.start()
    yield made
    await made.aclose(10)


async def two_on_their_way(log: GatedLog, writer: Writer) -> tuple[LiveStream, LiveStream]:
    """Two streams, each in a batch of its own that waits."""
    one, two = await begun(writer), await begun(writer)
    log.gates = gates = {}
    await writer.append(one, [(EventKind.NOISE, FRAME)])
    await until(lambda: one.record.id in gates)
    # It is full, and its writer waits.
    asyncio.create_task(writer.append(two, [(EventKind.NOISE, FRAME)] * FULL))  # noqa: RUF006
    await until(lambda: two.record.id in gates)
    return one, two


def end(writer: Writer, stream: LiveStream) -> None:
    """The regular end of a stream."""
    now = time.time()
    writer.end(stream, Ending(StreamState.COMPLETE, stream.last, now, now + 60))


async def test_a_commit_that_comes_about_after_its_stream_was_given_up_costs_no_answer(
    log: GatedLog, writer: Writer, caplog: pytest.LogCaptureFixture
) -> None:
    one, two = await two_on_their_way(log, writer)
    log.fail(one)
    await until(lambda: one.degraded and two.degraded)
    log.let(two)
    log.gates = None
    for stream in (one, two):
        await writer.append(stream, [(EventKind.RESPONSE, b"data: answer\r\n")])
        end(writer, stream)
    await until(lambda: not writer.live)
    assert "unexpected" not in caplog.text
    assert [e.frame for e in await log.read(one.record.id, 0, 100, 1 << 20)] == [
        b": gap: 1 events before this answer were not logged\r\ndata: answer\r\n"
    ]
    kept = await log.read(two.record.id, 0, 100, 1 << 20)
    assert [event.sequence for event in kept] == list(range(1, FULL + 2))
    assert kept[-1].frame == b"data: answer\r\n"


async def test_when_both_fail_nothing_is_left_running_behind_the_writer(
    log: GatedLog, writer: Writer
) -> None:
    one, two = await two_on_their_way(log, writer)
    log.fail(one)
    await until(lambda: writer.is_down)
    log.fail(two)
    await until(lambda: not (one.record.id in log.gates or two.record.id in log.gates))
    await asyncio.sleep(0)
    await writer.aclose(0)
    assert not [t for t in asyncio.all_tasks() if t.get_name() == "mcp-persist-probe"]


async def test_what_came_while_the_second_batch_was_on_its_way_is_committed_behind_it(
    log: GatedLog, writer: Writer
) -> None:
    one, two = await two_on_their_way(log, writer)
    log.let(one)
    await until(lambda: one.committed == 1)
    more = asyncio.create_task(writer.append(two, [(EventKind.NOISE, FRAME)]))
    await until(lambda: two.last == FULL + 1)
    # Everything that the first lane can do about it has been done.
    for _ in range(5):
        await asyncio.sleep(0)
    log.let(two)
    log.gates = None
    await until(lambda: two.committed == FULL + 1)
    await more
    assert await numbers(log, two.record) == list(range(1, FULL + 2))


async def test_a_failure_of_before_the_store_was_back_says_nothing_of_it_now(
    log: GatedLog, writer: Writer
) -> None:
    one, two = await two_on_their_way(log, writer)
    gates = log.gates
    assert gates is not None
    log.fail(one)
    await until(lambda: writer.is_down)
    await until(lambda: not writer.is_down)
    log.gates = None
    three = await begun(writer)
    log.gates = gates
    await writer.append(three, [(EventKind.NOISE, FRAME)])
    await until(lambda: three.record.id in gates)
    late = gates[two.record.id]
    log.fail(two)
    await until(late.done)
    for _ in range(5):
        await asyncio.sleep(0)
    assert not three.degraded
    assert not writer.is_down
    log.let_all()
    await until(lambda: three.committed == 1)


async def test_the_store_is_asked_again_whatever_the_question_raised(
    log: GatedLog, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = await two_on_their_way(log, writer)
    asked = []

    async def ping() -> None:
        asked.append(1)
        if len(asked) == 1:
            raise RuntimeError

    monkeypatch.setattr(log, "ping", ping)
    for stream in (one, two):
        log.fail(stream)
    await until(lambda: len(asked) > 1 and not writer.is_down)


async def test_a_batch_that_fails_while_the_writer_is_closed_leaves_nothing_running(
    log: GatedLog, writer: Writer
) -> None:
    _, two = await two_on_their_way(log, writer)
    first = writer._committers[0]
    closing = asyncio.create_task(writer.aclose(0.0))
    async with asyncio.timeout(5):
        while not first.cancelling():
            await asyncio.sleep(0)
    assert log.gates is not None
    if not log.gates[two.record.id].done():
        log.fail(two)
    await closing
    assert not [t for t in asyncio.all_tasks() if t.get_name() == "mcp-persist-probe"]


@pytest.mark.parametrize("events", [1, FULL], ids=["ended", "full"])
async def test_what_became_full_or_ended_while_the_second_lane_was_busy_is_taken_by_it(
    log: GatedLog, writer: Writer, events: int
) -> None:
    three = await begun(writer)
    _, two = await two_on_their_way(log, writer)
    adding = asyncio.create_task(writer.append(three, [(EventKind.NOISE, FRAME)] * events))
    await until(lambda: three.last == events)
    if events == 1:
        end(writer, three)
    log.let(two)
    await until(lambda: log.gates is not None and three.record.id in log.gates)
    log.let_all()
    await until(lambda: three.committed == events)
    await adding


async def test_a_single_event_does_not_wait_for_a_batch_of_others_that_is_slow(
    log: GatedLog, writer: Writer
) -> None:
    held, early, late = [await begun(writer) for _ in range(3)]
    log.gates = gates = {}
    await writer.append(held, [(EventKind.NOISE, FRAME)])
    await until(lambda: held.record.id in gates)
    for stream in (early, late):
        await writer.append(stream, [(EventKind.NOISE, FRAME)])
        await until(lambda: stream.record.id in gates)
        log.let(stream)
        await until(lambda: stream.committed == 1)
    assert held.committed == 0
    log.let_all()
    await until(lambda: held.committed == 1)


@pytest.mark.parametrize("together", [1, 4])
async def test_events_wait_for_each_other_only_where_they_come_fast(
    log: GatedLog, writer: Writer, monkeypatch: pytest.MonkeyPatch, together: int
) -> None:
    stream, begins = await begun(writer), list[float]()

    async def commit(batch: Sequence[StreamWrite]) -> list[Outcome]:
        begins.append(time.monotonic())
        return [Outcome.COMMITTED] * len(batch)

    monkeypatch.setattr(log, "append", commit)
    for _ in range(100):
        await writer.append(stream, [(EventKind.NOISE, FRAME)] * together)
        await asyncio.sleep(0.001)
    await until(lambda: stream.committed == stream.last)
    if together == 1:
        assert len(begins) > 80, "an event at a time is committed as it comes"
    else:
        assert len(begins) < 75, "the store is left alone for a while after four"


async def test_a_short_call_is_written_once_whatever_others_write_meanwhile(
    log: GatedLog, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, call, written = await begun(writer), fresh(), list[bytes]()
    commit = log.append

    async def noted(batch: Sequence[StreamWrite]) -> list[Outcome]:
        written.extend(write.id for write in batch)
        return await commit(batch)

    monkeypatch.setattr(log, "append", noted)
    writer.open(call)
    await writer.append(other, [(EventKind.NOISE, FRAME)])
    await until(lambda: other.committed == 1)
    call.add(EventKind.RESPONSE, FRAME)
    end(writer, call)
    await until(lambda: call.ended)
    assert written.count(call.record.id) == 1


async def test_who_needs_the_row_of_a_stream_does_not_wait_for_its_first_event(
    log: GatedLog, writer: Writer
) -> None:
    late, needed = fresh(), fresh()
    writer.open(late)
    writer.open(needed)
    writer.hurry(needed)
    await until(lambda: needed.created)
    assert not late.created
    await until(lambda: late.created)


class SplitLog(GatedLog):
    """Its events go another way than what begins and ends."""

    has_fast_path = True


async def test_what_begins_while_its_committer_is_dead_is_committed_when_that_lives_again(
    tmp_path: Path,
) -> None:
    log = SplitLog(tmp_path / "events.db")
    await log.open("one")
    tasks = Supervisor(asyncio.current_task())
    writer = Writer(log, 60.0, tasks=tasks)
    writer.start()
    await begun(writer)
    writer._committers[1].cancel()
    # It is dead for a moment, and hears of nothing.
    await asyncio.sleep(0)
    stream = fresh()
    writer.open(stream)
    writer.hurry(stream)
    await until(lambda: stream.created, 5)
    await writer.aclose(10)
    await tasks.aclose()
    await log.aclose()
