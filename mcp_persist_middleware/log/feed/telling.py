"""From streams that have moved to the items that a feed gives."""

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

from mcp_persist_middleware import rarely
from mcp_persist_middleware.errors import UnreadableRowError
from mcp_persist_middleware.log.base import EventLog, LastNumber
from mcp_persist_middleware.log.feed.items import FeedEvent, FeedGap, FeedItem, GapReason, Terms
from mcp_persist_middleware.log.feed.looking import Moved, standing_of
from mcp_persist_middleware.log.feed.positions import Positions, Standing
from mcp_persist_middleware.model import EARLY, Event, StreamKind, StreamRecord
from mcp_persist_middleware.protocol.event_id import name_of

logger = rarely.logger(__name__)

_PAGE = (256, 256 * 1024)


class Telling:
    """Reads what is behind the positions of a feed, and moves them.

    Args:
        timed: waits for an answer of the store.
    """

    def __init__(
        self,
        positions: Positions,
        terms: Terms,
        timed: Callable[[Awaitable[list[Event]]], Awaitable[list[Event]]],
    ) -> None:
        self._positions = positions
        self._terms = terms
        self._timed = timed
        self._records: dict[bytes, StreamRecord] = {}
        """Of streams that go on."""

    async def items(self, log: EventLog, batch: list[Moved]) -> AsyncIterator[FeedItem]:
        """What is told of streams that have moved."""
        if self._terms.on_slow == "drop":
            for gap in self._dropped(batch):
                yield gap
        for moved in batch:
            try:
                async for item in self._of(log, moved):
                    yield item
            except UnreadableRowError:
                # That stream's trouble, and no other's; the store has said what it is.
                for gap in self._passed_over(moved):
                    yield gap

    def _dropped(self, batch: list[Moved]) -> Iterator[FeedGap]:
        """Pass over the oldest of what is more than may wait."""
        waiting = [
            (moved.id, number, moved.now.sequence)
            for moved in batch
            if moved.now is not None and moved.now.sequence > (number := self._number(moved.id))
        ]
        excess = sum(last - number for _, number, last in waiting) - self._terms.max_behind
        for stream, number, last in waiting:
            if excess <= 0:
                return
            passed = min(excess, last - number)
            excess -= passed
            yield self._gap(stream, number, number + passed, GapReason.DROPPED)

    async def _of(self, log: EventLog, moved: Moved) -> AsyncIterator[FeedItem]:
        record = None if moved.now is None else await self._record(log, moved)
        if moved.now is None or record is None:
            for gap in self._gone(moved.id):
                yield gap
            return
        standing, last = standing_of(moved.now, record.kind), moved.now.sequence
        while (number := self._number(moved.id)) < last:
            page = await self._timed(log.read(moved.id, number, *_PAGE))
            # What is behind that may be in Redis alone: it is told when it is here to stay.
            events = list(itertools.takewhile(lambda event: event.sequence <= last, page))
            for event in events:
                if event.sequence > number + 1:
                    yield self._gap(moved.id, number, event.sequence - 1)
                number = event.sequence
                self._positions.put(
                    moved.id, (number, standing if number == last else Standing.OPEN)
                )
                yield self._event(record, event)
            if not events:
                yield self._gap(moved.id, number, last)
        self._positions.put(moved.id, (self._number(moved.id), standing))
        if standing is not Standing.OPEN:
            self._records.pop(moved.id, None)

    def _number(self, stream: bytes) -> int:
        """How far it was read."""
        return self._positions.places.get(stream, (0, Standing.OPEN))[0]

    async def _record(self, log: EventLog, moved: Moved) -> StreamRecord | None:
        record = moved.record or self._records.get(moved.id)
        # Whose it is may be known by now.
        if record is None or record.owner.principal.startswith(EARLY):
            record = await log.find(moved.id)
        if record is not None:
            self._records[moved.id] = record
        return record

    def _passed_over(self, moved: Moved) -> Iterator[FeedGap]:
        """It cannot be read."""
        now, number = moved.now or LastNumber(0, is_open=False, epoch=0), self._number(moved.id)
        if now.sequence > number:
            yield self._gap(moved.id, number, now.sequence)
        self._positions.put(
            moved.id, (max(number, now.sequence), standing_of(now, StreamKind.POST))
        )

    def _gone(self, stream: bytes) -> Iterator[FeedGap]:
        """It is in the store no more; of one that went on nobody knows how much it had."""
        number, standing = self._positions.places.get(stream, (0, Standing.RESTING))
        self._records.pop(stream, None)
        self._positions.put(stream, None)
        if standing is Standing.OPEN:
            yield FeedGap(
                GapReason.REMOVED, name_of(stream), number, None, self._positions.moment().cursor
            )

    def _gap(
        self, stream: bytes, after: int, last: int, reason: GapReason = GapReason.REMOVED
    ) -> FeedGap:
        """Pass over the events up to a number."""
        self._positions.put(stream, (last, Standing.OPEN))
        cursor = self._positions.moment().cursor
        return FeedGap(reason, name_of(stream), after, last - after, cursor)

    def _event(self, record: StreamRecord, event: Event) -> FeedEvent:
        owner = record.owner
        return FeedEvent(
            name_of(record.id),
            event.sequence,
            event.epoch,
            event.kind,
            record.kind,
            owner.namespace,
            owner.path,
            owner.session,
            owner.principal,
            event.frame,
            self._positions.moment().cursor,
        )
