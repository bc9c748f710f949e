"""G2: each stream is numbered 1, 2, 3 … by its one writer, within an epoch that names it."""

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mcp_persist_middleware.log.live import Limits, LiveStream
from mcp_persist_middleware.log.writer import Writer
from mcp_persist_middleware.model import (
    Event,
    EventKind,
    Outcome,
    Owner,
    StreamKind,
    StreamRecord,
    StreamState,
    StreamWrite,
)
from mcp_persist_middleware.protocol import event_id
from mcp_persist_middleware.settings import Settings
from mcp_persist_middleware.stores.connect import make_log
from mcp_persist_middleware.stores.sqlite.log import SqliteLog
from tests.support.scripted import until


def record(worker: str = "w") -> StreamRecord:
    """A new POST stream."""
    return StreamRecord(
        id=event_id.new_stream_id(),
        kind=StreamKind.POST,
        owner=Owner("default", "/mcp", "s", ""),
        epoch=1,
        state=StreamState.OPEN,
        last_sequence=0,
        worker=worker,
        created_at=time.time(),
        ended_at=None,
        expires_at=None,
        request_ids="[1]",
        trace="",
    )


def events(first: int, count: int, epoch: int = 1) -> tuple[Event, ...]:
    """Consecutive events."""
    return tuple(
        Event(n, epoch, EventKind.NOISE, b"data: %d\r\n" % n) for n in range(first, first + count)
    )


@pytest.fixture
async def log(store: str) -> AsyncIterator[SqliteLog]:
    """An open log."""
    made = make_log(Settings.load({"url": store}, {}))
    assert isinstance(made, SqliteLog)
    await made.open("w")
    yield made
    await made.aclose()


async def test_streams_written_together_are_each_numbered_without_a_gap(
    log: SqliteLog, tmp_path: Path
) -> None:
    writer = Writer(log, 5.0)
    writer.start()
    limits = Limits(64, 1 << 20, 10_000, 1 << 26)
    streams = [
        LiveStream(r, event_id.EventIds.of(r.id, r.kind, 1), limits)
        for r in (record() for _ in range(20))
    ]

    async def write(stream: LiveStream) -> None:
        writer.open(stream)
        for _ in range(50):
            await writer.append(stream, [(EventKind.NOISE, b"data: x\r\n")] * 3)

    await asyncio.gather(*map(write, streams))
    await until(lambda: all(stream.committed == 150 for stream in streams))
    await writer.aclose(5)
    with sqlite3.connect(tmp_path / "events.db") as file:
        for stream in streams:
            rows = file.execute(
                "SELECT sequence FROM mcp_event WHERE stream = ? ORDER BY sequence",
                (stream.record.id,),
            )
            assert [row[0] for row in rows] == list(range(1, 151))


async def test_a_writer_of_an_old_epoch_writes_nothing_and_costs_no_other_its_batch(
    log: SqliteLog,
) -> None:
    one, two = record(), record()
    assert (
        await log.append([StreamWrite(r.id, 1, create=r, events=events(1, 2)) for r in (one, two)])
        == [Outcome.COMMITTED] * 2
    )
    taken = StreamWrite(one.id, 2, takes_over=1, events=events(3, 1, epoch=2))
    assert await log.append([taken]) == [Outcome.COMMITTED]
    late = StreamWrite(one.id, 1, events=events(3, 1))
    fine = StreamWrite(two.id, 1, events=events(3, 1))
    assert await log.append([late, fine]) == [Outcome.FENCED, Outcome.COMMITTED]
    assert [(e.sequence, e.epoch) for e in await log.read(one.id, 0, 10, 1000)] == [
        (1, 1),
        (2, 1),
        (3, 2),
    ]


async def test_a_batch_whose_answer_was_lost_is_not_written_twice(log: SqliteLog) -> None:
    mine = record()
    write = StreamWrite(mine.id, 1, create=mine, events=events(1, 3))
    assert await log.append([write]) == [Outcome.COMMITTED]
    assert await log.append([write]) == [Outcome.COMMITTED]
    assert [e.sequence for e in await log.read(mine.id, 0, 10, 1000)] == [1, 2, 3]


async def test_a_poisoned_entry_is_the_error_of_its_stream_alone(log: SqliteLog) -> None:
    bad, good = record(), record()
    await log.append([StreamWrite(r.id, 1, create=r, events=events(1, 1)) for r in (bad, good)])
    outcomes = await log.append(
        [
            StreamWrite(bad.id, 1, events=(*events(2, 1), *events(2, 1))),
            StreamWrite(good.id, 1, events=events(2, 1)),
        ]
    )
    assert outcomes == [Outcome.REJECTED, Outcome.COMMITTED]


async def test_a_cancelled_append_leaves_no_transaction_open(
    log: SqliteLog, tmp_path: Path
) -> None:
    for _ in range(30):
        mine = record()
        task = asyncio.create_task(
            log.append([StreamWrite(mine.id, 1, create=mine, events=events(1, 200))])
        )
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        with sqlite3.connect(tmp_path / "events.db", timeout=2) as other:
            other.execute("BEGIN IMMEDIATE")
            other.execute("ROLLBACK")
        assert len(await log.read(mine.id, 0, 300, 1 << 20)) in (0, 200)
