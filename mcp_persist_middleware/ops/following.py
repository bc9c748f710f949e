"""Events as they come, of many streams at once: what is new since the last look."""

import dataclasses
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from typing import NamedTuple

from mcp_persist_middleware.model import StreamRecord
from mcp_persist_middleware.ops.records import is_open
from mcp_persist_middleware.stores.sql.inspected import EventHead, Wanted
from mcp_persist_middleware.stores.sql.inspection import Inspection

_MOST_STREAMS, _PAGE = 10_000, 500
# A stream that begins and ends between two looks is found by when it began. Its commit may come
# so much later (seconds).
_LATE = 30.0


class NewEvent(NamedTuple):
    """An event, and the stream that it is in."""

    record: StreamRecord
    head: EventHead


class Follower:
    """A place in each of the streams that are wanted."""

    def __init__(self, inspection: Inspection, wanted: Wanted) -> None:
        self._inspection = inspection
        self._wanted = wanted
        self._places: dict[bytes, int] = {}
        """The number of the last event that was told, by stream."""
        self._begun_after = 0.0

    async def latest(self, count: int) -> list[NewEvent]:
        """The newest events so far, a stream's in their order; what is newer is told by `look`."""
        self._begun_after = await self._inspection.now()
        newest = await self._inspection.streams(self._wanted, count)
        found: list[NewEvent] = []
        for record in newest:
            last = await self._last(record)
            heads = await self._inspection.heads(record.id, max(0, last - count), count)
            found[:0] = [NewEvent(record, head) for head in heads]
            if len(found) >= count:
                break
        self._places = await self._lasts(await self._followed())
        for event in found:
            place = self._places.get(event.record.id, 0)
            self._places[event.record.id] = max(place, event.head.sequence)
        return found[-count:]

    async def look(self) -> list[NewEvent]:
        """What has come since."""
        new: list[NewEvent] = []
        async for record, last in self._moved():
            new += await self._after(record, last)
        return new

    async def count(self) -> Counter[str]:
        """How many have come since, by worker."""
        counts: Counter[str] = Counter()
        async for record, last in self._moved():
            place, self._places[record.id] = self._places.get(record.id, 0), last
            counts[record.worker] += max(0, last - place)
        return counts

    async def _moved(self) -> AsyncIterator[tuple[StreamRecord, int]]:
        """The streams that are followed now, each with the number of its last event."""
        began, followed = await self._inspection.now(), await self._followed()
        lasts = await self._lasts(followed)
        for record in sorted(followed.values(), key=lambda each: each.id):
            yield record, lasts.get(record.id, 0)
        self._begun_after = began
        # One that has ended is told to its end, and begins no more.
        for stream in self._places.keys() - followed.keys():
            del self._places[stream]

    async def _after(self, record: StreamRecord, last: int) -> list[NewEvent]:
        new: list[NewEvent] = []
        place = self._places.setdefault(record.id, 0)
        while place < last and (heads := await self._inspection.heads(record.id, place, _PAGE)):
            new += [NewEvent(record, head) for head in heads]
            place = heads[-1].sequence
        self._places[record.id] = place
        return new

    async def _followed(self) -> dict[bytes, StreamRecord]:
        """Those that go on, those that began a moment ago, and those that went on at the last look
        and have ended since."""
        wanted = self._wanted
        going_on = dataclasses.replace(wanted, is_open=True)
        begun = dataclasses.replace(wanted, created_after=self._begun_after - _LATE)
        found = [
            *await self._inspection.streams(going_on, _MOST_STREAMS),
            *await self._inspection.streams(begun, _MOST_STREAMS),
        ]
        followed = {record.id: record for record in found}
        for stream in self._places.keys() - followed.keys():
            record = await self._inspection.stream(stream)
            if record is not None and self._places[stream] < await self._last(record):
                followed[stream] = record
        return followed

    async def _last(self, record: StreamRecord) -> int:
        if not is_open(record):
            return record.last_sequence
        return (await self._inspection.last_numbers([record.id])).get(record.id, 0)

    async def _lasts(self, records: Iterable[bytes]) -> dict[bytes, int]:
        return dict(await self._inspection.last_numbers(list(records)))
