"""The measures, each of which takes as long as it is told."""

import asyncio
import json
import os
import re
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from starlette.types import ASGIApp

from mcp_persist_middleware.log.live import LiveStream
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
from mcp_persist_middleware.ops.bench import Measure
from mcp_persist_middleware.ops.bench.application import PATH, BenchClient
from mcp_persist_middleware.ops.bench.opened import Rig
from mcp_persist_middleware.protocol import sse
from mcp_persist_middleware.protocol.event_id import EventIds, new_stream_id
from mcp_persist_middleware.supervision import begin_task

_STREAMS, _CLIENTS = 64, 16
_REPLAYED, _PAGE = 2000, (256, 256 * 1024)
_PACE = 100.0
# So long (seconds) it takes the second reader to come, mostly; and on a machine that is busy.
_BEGINS = (0.3, 1.5, 6.0)

Take = Callable[[Rig, float, int], AsyncIterator[Measure]]


def _stream(opened: Rig) -> StreamRecord:
    now = opened.context.log.now()
    return StreamRecord(
        id=new_stream_id(now),
        kind=StreamKind.POST,
        owner=Owner(opened.namespace, PATH, "", ""),
        epoch=1,
        state=StreamState.OPEN,
        last_sequence=0,
        worker=opened.context.member.name,
        created_at=now,
        ended_at=None,
        expires_at=None,
        request_ids="[1]",
        trace="",
    )


def _ending(opened: Rig, last: int) -> Ending:
    now = opened.context.log.now()
    return Ending(StreamState.COMPLETE, last, now, now + opened.context.settings.anonymous_ttl)


def _frame(size: int) -> bytes:
    """An event with so many bytes of a text that compresses as little as Base64 does."""
    params = {"progressToken": 1, "progress": 1, "message": os.urandom(size // 2).hex()}
    message = {"jsonrpc": "2.0", "method": "notifications/progress", "params": params}
    return sse.event(json.dumps(message).encode())


async def append(opened: Rig, seconds: float, size: int) -> AsyncIterator[Measure]:
    """Events one by one, each committed before the next; and of many streams at once."""
    log, frame = opened.context.log, _frame(size)
    times: list[float] = []
    record = _stream(opened)
    await log.append([StreamWrite(record.id, 1, create=record)])
    until = time.monotonic() + seconds
    while (begin := time.monotonic()) < until:
        event = Event(len(times) + 1, 1, EventKind.NOISE, frame)
        await log.append([StreamWrite(record.id, 1, events=(event,))])
        times.append(time.monotonic() - begin)
    await log.append([StreamWrite(record.id, 1, ending=_ending(opened, len(times)))])
    yield _timed("append, one by one", times, "events")
    yield await _appended_together(opened, seconds, frame)


async def _appended_together(opened: Rig, seconds: float, frame: bytes) -> Measure:
    context = opened.context
    records = [_stream(opened) for _ in range(_STREAMS)]
    live = [LiveStream(r, EventIds.of(r.id, r.kind, 1), context.limits) for r in records]
    for stream in live:
        context.writer.open(stream)
    begin = time.monotonic()

    async def pump(stream: LiveStream) -> None:
        while time.monotonic() < begin + seconds:
            await context.writer.append(stream, [(EventKind.NOISE, frame)])

    async with asyncio.TaskGroup() as group:
        for stream in live:
            begin_task(pump(stream), "mcp-persist-bench", group=group)
    for stream in live:
        while stream.committed < stream.last:
            await stream.signal.wait(context.settings.store_timeout)
    took = time.monotonic() - begin
    for stream in live:
        context.writer.end(stream, _ending(opened, stream.last))
    return Measure(f"append, {_STREAMS} streams", sum(s.last for s in live) / took, "events")


async def replay(opened: Rig, seconds: float, size: int) -> AsyncIterator[Measure]:
    """A stream that has ended, read from the store."""
    log, frame = opened.context.log, _frame(size)
    record = _stream(opened)
    events = [Event(n, 1, EventKind.NOISE, frame) for n in range(1, _REPLAYED + 1)]
    await log.append([StreamWrite(record.id, 1, create=record)])
    for start in range(0, _REPLAYED, _PAGE[0]):
        page = tuple(events[start : start + _PAGE[0]])
        await log.append([StreamWrite(record.id, 1, events=page)])
    await log.append([StreamWrite(record.id, 1, ending=_ending(opened, _REPLAYED))])
    times, until = [], time.monotonic() + seconds
    while (begin := time.monotonic()) < until:
        after = 0
        while found := await log.read(record.id, after, *_PAGE):
            after = found[-1].sequence
        times.append(time.monotonic() - begin)
    rate = _REPLAYED * len(times) / sum(times)
    yield Measure(f"replay, {_REPLAYED:,} events", rate, "events", sorted(times))


async def lag(opened: Rig, seconds: float, size: int) -> AsyncIterator[Measure]:
    """How old an event is when it is delivered: by the worker that has written it, and by another
    one."""
    del size
    for begin in _BEGINS:
        here, there = await _followed(opened, seconds, begin)
        if there.live():
            break
    for name, reader in (("on the same worker", here), ("on another worker", there)):
        yield _timed(f"lag {name}", reader.live(), "events", rate=_PACE)


async def _followed(opened: Rig, seconds: float, begin: float) -> tuple["_Reader", "_Reader"]:
    """A call, and who has read it on each worker; the second one has so long to come."""
    here, there = _Reader(), _Reader()
    client = BenchClient(opened.here)
    await client.open()
    count = int(_PACE * (seconds + begin))
    async with asyncio.TaskGroup() as group:
        call = client.call(here.hear, n=count, rate=_PACE)
        begin_task(call, "mcp-persist-bench", group=group)
        async with asyncio.timeout(begin + seconds):
            await here.begun.wait()
        await BenchClient(opened.there, client.session).resume(here.first, there.hear)
    return here, there


@dataclass(slots=True)
class _Reader:
    """Notes how old events are when they come."""

    first: bytes = b""
    """The id of the first event that has one."""
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    _heard: list[tuple[float, float]] = field(default_factory=list)
    """When an event was made, and when it came."""
    _parser: sse.FrameParser = field(default_factory=lambda: sse.FrameParser(1024 * 1024))

    def hear(self, chunk: bytes) -> None:
        now = time.monotonic()
        if not self.first and (found := _ID.search(chunk)):
            self.first = found[1]
            self.begun.set()
        for frame in self._parser.feed(chunk):
            params = json.loads(frame.data or b"{}").get("params")
            if params is not None:
                self._heard.append((float(params["message"]), now))

    def live(self) -> list[float]:
        """The ages of those that were made when the reader was there."""
        since = min((came for _, came in self._heard), default=0.0)
        return [came - made for made, came in self._heard if made > since]


_ID = re.compile(rb"^id: ?([^\r\n]+)", re.MULTILINE)


async def call(opened: Rig, seconds: float, size: int) -> AsyncIterator[Measure]:
    """A call that returns at once: of one client, and of several, without the middleware and with
    it."""
    del size
    for name, app in (("bare", opened.bare), ("kept", opened.here)):
        yield _timed(f"call, {name}", await _called(app, seconds), "calls")
    for name, app in (("bare", opened.bare), ("kept", opened.here)):
        begin = time.monotonic()
        async with asyncio.TaskGroup() as group:
            tasks = [
                begin_task(_called(app, seconds), "mcp-persist-bench", group=group)
                for _ in range(_CLIENTS)
            ]
        times = sorted(time for task in tasks for time in task.result())
        rate = len(times) / (time.monotonic() - begin)
        yield Measure(f"{_CLIENTS} clients call, {name}", rate, "calls", times)


async def _called(app: ASGIApp, seconds: float) -> list[float]:
    client, times = BenchClient(app), []
    await client.open()
    until = time.monotonic() + seconds
    while (begin := time.monotonic()) < until:
        await client.call()
        times.append(time.monotonic() - begin)
        # An application that never waits keeps its event loop from the others.
        await asyncio.sleep(0)
    return times


def _timed(name: str, times: list[float], of: str, *, rate: float | None = None) -> Measure:
    found = len(times) / sum(times) if rate is None else rate
    return Measure(name, found, of, sorted(times))


ALL: dict[str, Take] = {"append": append, "replay": replay, "lag": lag, "call": call}
"""By name."""
