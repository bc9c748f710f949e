"""What has moved since the last look, in all streams that a feed follows.

A stream that is known is asked how far it is. One that is not known began since the floor: streams
are listed in the order of their ids, which is that of their age. A row may be committed so much
later than its id was made (`horizon`): so long the floor waits, and what began since is looked at
again and again.
"""

import contextlib
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from mcp_persist_middleware.errors import FeedError, UnsupportedError
from mcp_persist_middleware.log.base import EventLog, LastNumber
from mcp_persist_middleware.log.feed.items import Scope
from mcp_persist_middleware.log.feed.positions import Positions, Standing, StreamPosition
from mcp_persist_middleware.log.whose import Whose
from mcp_persist_middleware.model import StreamKind, StreamRecord
from mcp_persist_middleware.protocol.event_id import TIME_BYTES, earliest

_PAGE, _TOGETHER = 1000, 256
# Between two looks at all that began since the floor the newest are looked at, back to so long
# (seconds) before the last look.
_OVERLAP = 0.5


class Followed(Protocol):
    """What a look asks: an `EventLog`, or who sees the same in another way."""

    def now(self) -> float:
        """See `Timed`."""

    async def streams(self, after: bytes, limit: int) -> Sequence[StreamRecord]:
        """See `Listing`."""

    async def streams_of(self, whose: Whose, after: bytes, limit: int) -> Sequence[StreamRecord]:
        """See `Listing`."""

    async def last_numbers(self, streams: Mapping[bytes, int]) -> Mapping[bytes, LastNumber]:
        """See `EventLog`."""


@dataclass(slots=True)
class Moved:
    """A stream of which there is something to tell."""

    id: bytes
    now: LastNumber | None
    """How far it is; None where it is gone."""
    record: StreamRecord | None = None


class Looker:
    """Looks for what is new to the positions of one feed.

    Args:
        horizon: a stream is committed so many seconds after its id was made, at most.
    """

    def __init__(self, scope: Scope, positions: Positions, horizon: float) -> None:
        self._scope = scope
        self._positions = positions
        self._horizon = horizon
        self._looked = 0.0

    async def known(self, log: Followed, *, also_resting: bool) -> AsyncIterator[list[Moved]]:
        """Those of the known streams that have moved."""
        places = self._positions.places
        meant = (Standing.OPEN, Standing.RESTING) if also_resting else (Standing.OPEN,)
        names = [stream for stream, place in places.items() if place[1] in meant]
        for start in range(0, len(names), _TOGETHER):
            part = {name: places[name] for name in names[start : start + _TOGETHER]}
            found = await log.last_numbers({name: place[0] for name, place in part.items()})
            moved = [Moved(name, found.get(name)) for name in part]
            if news := [each for each in moved if _is_news(each.now, part[each.id])]:
                yield news

    async def begun(
        self, log: Followed, *, whole: bool, raises: bool
    ) -> AsyncIterator[list[Moved]]:
        """Those that are not known yet: of all that began since the floor, which then `raises`, or
        of the newest. What was given before is told, and known, when the next are asked for."""
        if self._scope.stream is not None:
            return
        positions, began = self._positions, log.now()
        safe = int((began - self._horizon) * 1000)
        newest = earliest(self._looked - _OVERLAP)
        after = positions.begin if whole else max(positions.begin, newest)
        while page := await self._streams(log, after):
            after = page[-1].id
            unknown = [record for record in page if not positions.knows(record.id)]
            if unknown:
                numbers = await self._numbers(log, unknown)
                yield [Moved(each.id, numbers.get(each.id), each) for each in unknown]
            if raises:
                positions.raise_floor(min(safe, int.from_bytes(after[:TIME_BYTES], "big")))
        if raises:
            positions.raise_floor(safe)
        self._looked = began

    async def _streams(self, log: Followed, after: bytes) -> Sequence[StreamRecord]:
        if self._scope.is_everything:
            return await log.streams(after, _PAGE)
        return await log.streams_of(self._scope.whose, after, _PAGE)

    async def _numbers(
        self, log: Followed, records: Iterable[StreamRecord]
    ) -> dict[bytes, LastNumber]:
        """How far new streams are. One that has ended says so itself."""
        ended = {
            r.id: LastNumber(r.last_sequence, is_open=False, epoch=r.epoch)
            for r in records
            if r.ended_at is not None
        }
        running = [record.id for record in records if record.id not in ended]
        return ended | await self._last(log, running)

    async def _last(self, log: Followed, names: Sequence[bytes]) -> dict[bytes, LastNumber]:
        found: dict[bytes, LastNumber] = {}
        for start in range(0, len(names), _TOGETHER):
            part = names[start : start + _TOGETHER]
            found |= await log.last_numbers(dict.fromkeys(part, 0))
        return found

    async def begin(self, log: EventLog) -> None:
        """Be where the streams are now: what was committed so far is not told.

        Raises:
            FeedError: there is no such stream.
        """
        positions = self._positions
        kinds: dict[bytes, StreamKind | None] = {}
        if self._scope.stream is not None:
            await self.check(log)
            kinds[self._scope.stream] = None
        else:
            positions.raise_floor(int((log.now() - self._horizon) * 1000))
            kinds = {stream: kind async for stream, kind in self._present(log)}
        for stream, number in (await self._last(log, list(kinds))).items():
            standing = standing_of(number, kinds[stream])
            if standing is not Standing.DONE or stream > positions.begin:
                positions.put(stream, (number.sequence, standing))

    async def check(self, log: EventLog) -> None:
        """Return when the one stream that is followed is there.

        Raises:
            FeedError: it is not.
        """
        stream = self._scope.stream
        if stream is not None and await log.find(stream) is None:
            raise FeedError(reason=f"the store {log.name} has no such stream")

    async def _present(self, log: EventLog) -> AsyncIterator[tuple[bytes, StreamKind]]:
        """All streams that may go on, and all that began since the floor."""
        whose = self._scope.whose
        if whose.session is not None:
            async for record in self._all(log, b""):
                yield record.id, record.kind
            return
        for worker in await log.active_writers():
            after = b""
            while page := await log.open_streams_of(worker, _PAGE, after):
                after = page[-1].id
                for record in page:
                    if whose.has(record.owner):
                        yield record.id, record.kind
        # A session's own may be opened again, however old it is.
        # A registry need not be able to tell: then those that are open now are known.
        with contextlib.suppress(UnsupportedError):
            for stream in await log.sessions.own_streams(whose.namespace):
                yield stream, StreamKind.GET
        async for record in self._all(log, self._positions.begin):
            yield record.id, record.kind

    async def _all(self, log: EventLog, after: bytes) -> AsyncIterator[StreamRecord]:
        while page := await self._streams(log, after):
            after = page[-1].id
            for record in page:
                yield record


def standing_of(now: LastNumber, kind: StreamKind | None) -> Standing:
    """What becomes of a stream when all that it has was read; of an unknown kind, one that was
    found open, that is looked at later."""
    if now.is_open or kind is None:
        return Standing.OPEN
    return Standing.RESTING if kind is StreamKind.GET else Standing.DONE


def _is_news(now: LastNumber | None, place: StreamPosition) -> bool:
    number, standing = place
    return now is None or now.sequence > number or now.is_open is not (standing is Standing.OPEN)
