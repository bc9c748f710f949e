"""Stores with something in them, and what is in them, for the tests of copies."""

import contextlib
import dataclasses
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from mcp_persist_middleware.log.base import EventLog
from mcp_persist_middleware.log.codecs.coded import CodedLog
from mcp_persist_middleware.model import Ending, Event, SessionKey, StreamRecord, StreamState
from mcp_persist_middleware.settings import Settings
from mcp_persist_middleware.stores.connect import make_log
from mcp_persist_middleware.testing.contract.builders import (
    ALL,
    add,
    events,
    new,
    record,
    session,
)

FAR = time.time() + 10_000
Given = dict[str, Any]


@contextlib.asynccontextmanager
async def worker(given: Given, name: str = "one") -> AsyncIterator[EventLog]:
    """A worker's log on a store."""
    settings = Settings.load(given)
    log = CodedLog(make_log(settings), settings)
    await log.open(name)
    try:
        yield log
    finally:
        await log.aclose()


def ended(last: int, *, expires_at: float = FAR) -> Ending:
    """The end of a stream that is kept."""
    return Ending(StreamState.COMPLETE, last, time.time(), expires_at)


async def fill(log: EventLog, streams: int = 6, count: int = 5) -> Sequence[StreamRecord]:
    """Streams of a session, every other one ended; a large event, a NUL in a path, two epochs."""
    await log.sessions.create(session(expires_at=FAR))
    await log.sessions.create(session("gone", expires_at=FAR))
    await log.sessions.delete(SessionKey("default", "/mcp", "gone"), FAR)
    made = [record(path="/m\0cp" if n == 2 else "/mcp") for n in range(streams)]
    made[1] = dataclasses.replace(made[1], request=b'{"method":"tools/call"}' * 20)
    for n, stream in enumerate(made):
        await log.append([new(stream, *events(1, count))])
        if n % 2 == 0:
            await log.append([add(stream, ending=ended(count))])
    large = made[1]
    frame = b"data: " + bytes(range(32, 127)) * 3000 + b"\r\n"
    await log.append([add(large, Event(count + 1, 1, events(1, 1)[0].kind, frame))])
    over = add(large, *events(count + 2, 2, epoch=2), epoch=2, takes_over=1, worker="two")
    await log.append([over])
    return made


async def content(given: Given, streams: Sequence[StreamRecord]) -> list[Any]:
    """What a worker on a store reads of some streams and of the sessions."""
    found: list[Any] = []
    async with worker(given, "reader") as log:
        for stream in streams:
            found.append(await log.find(stream.id))
            found.append(await log.read(stream.id, 0, *ALL))
        for name in ("s", "gone"):
            key = SessionKey("default", "/mcp", name)
            found.append(await log.sessions.find(key))
            found.append(await log.sessions.stream_state(key))
    return found
