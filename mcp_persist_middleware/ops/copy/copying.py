"""The copying itself: everything once, in the order of the streams' ids, which is that of their
age; then what has changed meanwhile, as often as that takes.

The target is a mirror. Until it is complete nobody serves it, so what differs from the source is
made as it is there, and what the source has no more goes.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from mcp_persist_middleware.ops.copy.beside import CopyingBeside
from mcp_persist_middleware.ops.copy.codecs import Recoder
from mcp_persist_middleware.ops.copy.place import Checkpoint
from mcp_persist_middleware.ops.copy.rows import (
    LAST,
    MAX_BYTES,
    MAX_EVENTS,
    STREAM,
    Beside,
    Changes,
    EventKey,
    EventRow,
    Row,
    at,
    is_kept,
    partial,
    same,
)
from mcp_persist_middleware.ops.copy.store import Readable, Writable
from mcp_persist_middleware.supervision import begin_task

T = TypeVar("T")

_ROWS = 1000


@dataclass(frozen=True, slots=True)
class Progress:
    """How far it is."""

    doing: str
    """What is done now: `copy`, `catch up`, `follow`, `verify`."""
    streams: int = 0
    events: int = 0
    bytes: int = 0
    sessions: int = 0
    jobs: int = 0
    journal: int = 0
    total: int | None = None
    """Of how many streams, where that is known."""


Report = Callable[[Progress], None]


class Copying:
    """Brings the rows of one store into another. Bounded in memory: a page of rows is read while
    the one before is written."""

    def __init__(
        self,
        source: Readable,
        target: Writable,
        place: Checkpoint,
        recoder: Recoder,
        report: Report,
    ) -> None:
        self._source, self._target = source, target
        self._place = place
        self._recoder = recoder
        self._report = report
        self._beside = CopyingBeside(source, target, recoder, self._flush)
        self.done = Progress("copy")

    def doing(self, what: str, total: int | None = None) -> None:
        """Say what is done from now on."""
        self.done = replace(self.done, doing=what, total=total)
        self._report(self.done)

    async def everything_once(self) -> None:
        """The first pass; it goes on where an earlier one was stopped."""
        async with contextlib.aclosing(_ahead(self._chunks(self._place.position))) as chunks:
            async for changes, position in chunks:
                await self._place.advance(changes, position)
                self._count(changes)
        await self._place.pass_()

    async def _chunks(self, position: EventKey) -> AsyncGenerator[tuple[Changes, EventKey]]:
        now = await self._source.now()
        begun = position.stream
        if begun and position.sequence < LAST:
            # The stream in which it was stopped: the rest of its events.
            async for chunk in self._of_page([], position, begun, now):
                yield chunk
        while rows := await self._source.streams(begun, _ROWS):
            async for chunk in self._of_page(rows, EventKey(begun, LAST), rows[-1]["id"], now):
                yield chunk
            begun = rows[-1]["id"]

    async def _of_page(
        self, rows: Sequence[Row], position: EventKey, until: bytes, now: float
    ) -> AsyncIterator[tuple[Changes, EventKey]]:
        """The events of a page of streams, each stream with the first of them."""
        kept = {row["id"]: row for row in rows if is_kept(row, now)}
        wanted = {*kept} if rows else {position.stream}
        left = list(kept.values())
        while True:
            events = await self._source.events(position, until, MAX_EVENTS, MAX_BYTES)
            position = at(events[-1]) if events else EventKey(until, LAST)
            changes = Changes()
            while left and left[0]["id"] <= position.stream:
                row = left.pop(0)
                changes.add_stream(await self._whole(row), is_new=True)
                if changes.is_full:
                    yield changes, EventKey(row["id"])
                    changes = Changes()
            mine = [event for event in events if event[STREAM] in wanted]
            changes.add_events(await self._recoder.events(mine))
            yield changes, position
            if not events:
                return

    async def catch_up(self) -> None:
        """Let the target be as the source is: look at every stream and session of both."""
        async for rows in self._pages(self._source, is_open=False):
            await self._bring(rows, exact=True)
        async for rows in self._pages(self._target, is_open=False):
            await self._drop(rows)
        await self._beside.bring(exact=True)

    async def follow(self, since: bytes) -> bytes:
        """Bring what is most likely new: streams younger than one, open ones, and what is beside
        them. Returns the youngest stream."""
        after = since
        while rows := await self._source.streams(after, _ROWS):
            await self._bring(rows)
            after = rows[-1]["id"]
        async for rows in self._pages(self._source, is_open=True):
            await self._bring(rows)
        async for rows in self._pages(self._target, is_open=True):
            there = await self._source.find_streams([row["id"] for row in rows])
            await self._bring([row for row in there.values() if row["ended_at"] is not None])
        await self._beside.bring(exact=not since)
        return after

    async def _pages(self, store: Readable, *, is_open: bool) -> AsyncIterator[Sequence[Row]]:
        after = b""
        while rows := await store.streams(after, _ROWS, is_open=is_open):
            yield rows
            after = rows[-1]["id"]

    async def _bring(self, rows: Sequence[Row], *, exact: bool = False) -> None:
        """Let the target have these streams of the source as they are there now."""
        now = await self._source.now()
        there = await self._target.find_streams([row["id"] for row in rows])
        late = [row["id"] for row in rows if not is_kept(row, now)]
        await self._place.apply(Changes(gone_streams=[id_ for id_ in late if id_ in there]))
        changed = [
            row
            for row in rows
            if is_kept(row, now)
            and (row["ended_at"] is None or not same(row, there.get(row["id"])))
        ]
        if changed:
            await self._renew(changed, there, exact=exact)

    async def _renew(self, rows: Sequence[Row], there: Mapping[bytes, Row], *, exact: bool) -> None:
        had = await self._target.extents({row["id"]: LAST for row in rows})
        # Of what the target has: whether the source still has all of it.
        has = await self._source.extents({row["id"]: had[row["id"]].last for row in rows})
        changes = Changes()
        for row in rows:
            id_ = row["id"]
            last, old = had[id_].last, there.get(id_)
            if exact and has[id_].events != had[id_].events:
                gone = await self._gone(id_, last)
                if gone is None:
                    changes.gone_streams.append(id_)
                    last, old = 0, None
                changes.gone_events += gone or ()
            changes = await self._rest(row, last, old, changes)
        await self._flush(changes)

    async def _gone(self, stream: bytes, last: int) -> Sequence[tuple[bytes, int]] | None:
        """What the source has removed of a stream that the target has up to a number; None where
        it is another stream by now."""
        kept = {*await self._source.numbers(stream, last)}
        had = {*await self._target.numbers(stream, last)}
        return [(stream, number) for number in had - kept] if kept <= had else None

    async def _rest(self, row: Row, last: int, there: Row | None, changes: Changes) -> Changes:
        """What the target lacks of a stream behind a number; its row comes with the last of it."""
        position = EventKey(row["id"], last)
        new = 0
        while events := await self._source.events(position, row["id"], MAX_EVENTS, MAX_BYTES):
            position, new = at(events[-1]), new + len(events)
            changes.add_events(await self._recoder.events(events))
            if changes.is_full:
                changes.add_stream(partial(row))
                changes = await self._flush(changes)
        if new or not same(row, there):
            changes.add_stream(await self._whole(row))
        return await self._flush(changes) if changes.is_full else changes

    async def _whole(self, row: Row) -> Row:
        """A stream's row with the request that it may keep, for the target."""
        kept = await self._source.request(row["id"]) if row["request"] else None
        return row | {"request": kept and self._recoder.request(row["id"], kept)}

    async def _flush(self, changes: Changes) -> Changes:
        """Apply changes; where the next ones go."""
        await self._place.apply(changes)
        self._count(changes)
        return Changes()

    async def _drop(self, rows: Sequence[Row]) -> None:
        """Take streams from the target that the source has no more."""
        there = await self._source.find_streams([row["id"] for row in rows])
        gone = [row["id"] for row in rows if row["id"] not in there]
        await self._place.apply(Changes(gone_streams=gone))

    def _count(self, changes: Changes) -> None:
        done = self.done
        self.done = replace(
            done,
            streams=done.streams + len(changes.new_streams) + len(changes.streams),
            events=done.events + len(changes.events),
            bytes=done.bytes + changes.size,
            sessions=done.sessions + changes.count(Beside.SESSION),
            jobs=done.jobs + changes.count(Beside.JOB),
            journal=done.journal + changes.count(Beside.JOURNAL),
        )
        if changes:
            self._report(self.done)


async def events_of(store: Readable, stream: bytes) -> AsyncIterator[list[EventRow]]:
    """The events of one stream, page by page."""
    position = EventKey(stream)
    while page := await store.events(position, stream, MAX_EVENTS, MAX_BYTES):
        yield list(page)
        position = at(page[-1])


async def _ahead(items: AsyncGenerator[T]) -> AsyncGenerator[T]:
    """The same items, each made while the one before is used."""

    async def following() -> T | None:
        return await anext(items, None)

    coming = begin_task(following(), "mcp-persist-copy")
    try:
        while (item := await coming) is not None:
            coming = begin_task(following(), "mcp-persist-copy")
            yield item
    finally:
        coming.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await coming
