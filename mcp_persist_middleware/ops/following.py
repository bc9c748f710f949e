"""Events as they come, of many streams at once: what is new since the last look. What has moved is
found as a feed finds it (`log.feed.looking`), on a connection that can only read."""

import dataclasses
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import NamedTuple

from mcp_persist_middleware.log.base import LastNumber
from mcp_persist_middleware.log.feed.items import Scope
from mcp_persist_middleware.log.feed.looking import Looker, standing_of
from mcp_persist_middleware.log.feed.positions import Positions, Standing
from mcp_persist_middleware.log.whose import Whose
from mcp_persist_middleware.model import StreamKind, StreamRecord
from mcp_persist_middleware.stores.sql.inspected import EventHead, Wanted
from mcp_persist_middleware.stores.sql.inspection import Inspection

_PAGE = 500
# A stream is committed so much later than it has begun (seconds), at most.
_LATE = 30.0


class NewEvent(NamedTuple):
    """An event, and the stream that it is in."""

    record: StreamRecord
    head: EventHead


class _Wanted:
    """The streams that are wanted, as a look asks for them."""

    def __init__(self, inspection: Inspection, wanted: Wanted) -> None:
        self._inspection = inspection
        self._wanted = wanted
        self.time = 0.0

    def now(self) -> float:
        return self.time

    async def streams(self, after: bytes, limit: int) -> Sequence[StreamRecord]:
        return await self._inspection.streams(self._wanted, limit, after=after)

    async def streams_of(self, whose: Whose, after: bytes, limit: int) -> Sequence[StreamRecord]:
        del whose
        return await self.streams(after, limit)

    async def last_numbers(self, streams: Mapping[bytes, int]) -> Mapping[bytes, LastNumber]:
        return await self._inspection.last_numbers(streams)


class _Step(NamedTuple):
    """A stream that has moved, from one number to another."""

    record: StreamRecord
    place: int
    last: int


class Follower:
    """A place in each of the streams that are wanted."""

    def __init__(self, inspection: Inspection, wanted: Wanted) -> None:
        self._inspection = inspection
        self._wanted = wanted
        self._streams = _Wanted(inspection, wanted)
        self._positions = Positions(b"")
        self._looker = Looker(Scope(), self._positions, _LATE)

    async def latest(self, count: int) -> list[NewEvent]:
        """The newest events so far, a stream's in their order; what is newer is told by `look`."""
        await self._begin()
        found: list[NewEvent] = []
        for record in await self._inspection.streams(self._wanted, count):
            last, _ = self._positions.places.get(record.id, (record.last_sequence, None))
            heads = await self._inspection.heads(record.id, max(0, last - count), count)
            found[:0] = [NewEvent(record, head) for head in heads if head.sequence <= last]
            if len(found) >= count:
                break
        return found[-count:]

    async def look(self) -> list[NewEvent]:
        """What has come since."""
        new: list[NewEvent] = []
        async for record, place, last in self._moved():
            at = place
            while at < last and (heads := await self._heads(record.id, at, last)):
                new += [NewEvent(record, head) for head in heads]
                at = heads[-1].sequence
        return new

    async def count(self) -> Counter[str]:
        """How many have come since, by worker."""
        counts: Counter[str] = Counter()
        async for record, place, last in self._moved():
            counts[record.worker] += max(0, last - place)
        return counts

    async def _heads(self, stream: bytes, place: int, last: int) -> list[EventHead]:
        heads = await self._inspection.heads(stream, place, _PAGE)
        return [head for head in heads if head.sequence <= last]

    async def _begin(self) -> None:
        """Be where all streams are that may go on, and those that began a moment ago."""
        positions = self._positions
        self._streams.time = await self._inspection.now()
        positions.raise_floor(int((self._streams.time - _LATE) * 1000))
        kinds = dict.fromkeys(await self._inspection.own_streams(self._wanted), StreamKind.GET)
        going_on = dataclasses.replace(self._wanted, is_open=True)
        for wanted, after in ((going_on, b""), (self._wanted, positions.begin)):
            while page := await self._inspection.streams(wanted, _PAGE, after=after):
                after = page[-1].id  # noqa: PLW2901
                kinds |= {record.id: record.kind for record in page}
        for stream, now in (await self._inspection.last_numbers(kinds)).items():
            positions.put(stream, (now.sequence, standing_of(now, kinds[stream])))

    async def _moved(self) -> AsyncIterator[_Step]:
        """The streams of which there is more than there was, and how far they are now."""
        self._streams.time = await self._inspection.now()
        for batches in (
            self._looker.known(self._streams, also_resting=True),
            self._looker.begun(self._streams, whole=True, raises=True),
        ):
            async for batch in batches:
                for moved in batch:
                    record = moved.record or await self._inspection.stream(moved.id)
                    if moved.now is None or record is None:
                        self._positions.put(moved.id, None)
                        continue
                    place, _ = self._positions.places.get(moved.id, (0, Standing.OPEN))
                    yield _Step(record, place, moved.now.sequence)
                    standing = standing_of(moved.now, record.kind)
                    self._positions.put(moved.id, (moved.now.sequence, standing))
