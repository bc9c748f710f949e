"""The one place that knows the library from inside: its log and its writer without a server."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from sqlalchemy import make_url

from mcp_persist_middleware.log.base import EventLog
from mcp_persist_middleware.log.live import Limits, LiveStream
from mcp_persist_middleware.log.writer import Writer
from mcp_persist_middleware.model import (
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
from mcp_persist_middleware.settings import Settings
from mcp_persist_middleware.stores.sqlite.log import SqliteLog

PREFIX = "mcp_"
PAGE = (256, 1024 * 1024)


class Log(SqliteLog):
    """A log that can note the shape of the batches it is given."""

    noted: list[list[tuple[bytes, int]]] | None = None
    """For each batch, its streams and how many events of each, while it is a list."""

    async def append(self, batch: Sequence[StreamWrite]) -> list[Outcome]:
        if self.noted is not None:
            self.noted.append([(write.id, len(write.events)) for write in batch])
        return await super().append(batch)


@asynccontextmanager
async def opened(path: Path, synchronous: str = "normal") -> AsyncIterator[Log]:
    """The log in a file, with its schema."""
    url = make_url(f"sqlite+aiosqlite:///{path}")
    log = Log(url, prefix=PREFIX, timeout=30.0, synchronous=synchronous)
    await log.open("benchmark")
    try:
        yield log
    finally:
        await log.aclose()


def record(stream: bytes | None = None) -> StreamRecord:
    """A new stream."""
    return StreamRecord(
        id=stream or new_stream_id(),
        kind=StreamKind.POST,
        owner=Owner("default", "/mcp", "session", "principal"),
        epoch=1,
        state=StreamState.OPEN,
        last_sequence=0,
        worker="benchmark",
        created_at=time.time(),
        ended_at=None,
        expires_at=None,
        request_ids="[1]",
        trace="",
    )


async def append_all(log: EventLog, streams: int, events: int, frame: bytes) -> float:
    """Write so many events to each of so many new streams through the writer, one by one, as
    pumps do; the seconds from the first event to the last commit."""
    defaults = Settings.load({"url": "unused.db"}, {})
    limits = Limits(
        defaults.run_ahead_events,
        defaults.run_ahead_bytes,
        defaults.max_stream_events,
        defaults.max_stream_bytes,
    )
    writer = Writer(log, timeout=30.0)
    writer.start()
    records = [record() for _ in range(streams)]
    live = [LiveStream(r, EventIds.of(r.id, r.kind, 1), limits) for r in records]
    for stream in live:
        writer.open(stream)
        await writer.append(stream, [(EventKind.MESSAGE, frame)])
    await _committed(live)

    async def pump(stream: LiveStream) -> None:
        for _ in range(events):
            await writer.append(stream, [(EventKind.NOISE, frame)])

    begin = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for stream in live:
            group.create_task(pump(stream))
    await _committed(live)
    took = time.perf_counter() - begin
    for stream in live:
        writer.end(stream, Ending(StreamState.COMPLETE, stream.last, time.time(), time.time()))
    await writer.aclose(30.0)
    return took


async def _committed(live: Sequence[LiveStream]) -> None:
    for stream in live:
        while stream.committed < stream.last:
            await stream.signal.wait(30.0)


async def begin(log: EventLog, streams: Sequence[bytes], events: int, frame: bytes) -> None:
    """Create streams that hold some events already."""
    for stream in streams:
        held = tuple(Event(n, 1, EventKind.NOISE, frame) for n in range(1, events + 1))
        await log.append([StreamWrite(stream, 1, create=record(stream), events=held)])


async def append_ms(log: EventLog, streams: Sequence[bytes], number: int, frame: bytes) -> float:
    """The milliseconds of one commit of one event for each stream."""
    event = (Event(number, 1, EventKind.NOISE, frame),)
    batch = [StreamWrite(stream, 1, events=event) for stream in streams]
    begin = time.perf_counter()
    await log.append(batch)
    return (time.perf_counter() - begin) * 1e3


async def replay_ms(log: EventLog, stream: bytes, events: int) -> float:
    """The milliseconds of reading a whole stream in pages."""
    begin, after = time.perf_counter(), 0
    while page := await log.read(stream, after, *PAGE):
        after = page[-1].sequence
    took = (time.perf_counter() - begin) * 1e3
    assert after == events, (after, events)
    return took
