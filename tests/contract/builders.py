"""Streams and entries as the tests write them."""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mcp_persist_middleware.log.base import EventLog
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
from mcp_persist_middleware.protocol.event_id import new_stream_id

COMMITTED, FENCED, REJECTED = Outcome.COMMITTED, Outcome.FENCED, Outcome.REJECTED
ALL = (1 << 20, 1 << 30)
"""A page without a bound."""


def record(
    *, session: str = "s", path: str = "/mcp", worker: str = "one", namespace: str = "default"
) -> StreamRecord:
    """A new open stream."""
    return StreamRecord(
        id=new_stream_id(),
        kind=StreamKind.POST,
        owner=Owner(namespace, path, session, "ann"),
        epoch=1,
        state=StreamState.OPEN,
        last_sequence=0,
        worker=worker,
        created_at=1000.5,
        ended_at=None,
        expires_at=None,
        request_ids="[1]",
        trace="00-aa-bb-01",
    )


def events(
    first: int, count: int, *, epoch: int = 1, kind: EventKind = EventKind.MESSAGE
) -> tuple[Event, ...]:
    """Consecutive events whose frames tell them apart."""
    return tuple(
        Event(n, epoch, kind, b"data: %d.%d\r\n" % (epoch, n)) for n in range(first, first + count)
    )


def ending(last: int, *, expires_at: float = 2000.0) -> Ending:
    """The regular end of a stream."""
    return Ending(StreamState.COMPLETE, last, 1500.0, expires_at)


def new(stream: StreamRecord, *written: Event, **more: Any) -> StreamWrite:
    """The entry that begins a stream."""
    return StreamWrite(stream.id, stream.epoch, create=stream, events=written, **more)


def add(stream: StreamRecord, *written: Event, epoch: int = 1, **more: Any) -> StreamWrite:
    """An entry of a stream that is there."""
    return StreamWrite(stream.id, epoch, events=written, **more)


async def numbers(log: EventLog, stream: StreamRecord, after: int = 0) -> list[int]:
    """The numbers of all events that the store has of a stream."""
    return [event.sequence for event in await log.read(stream.id, after, *ALL)]


@contextlib.contextmanager
def direct(path: Path) -> Iterator[sqlite3.Connection]:
    """The file as another process sees it, which waits for nobody's lock."""
    connection = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
    try:
        yield connection
    finally:
        connection.close()
