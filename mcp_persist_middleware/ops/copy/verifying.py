"""Whether two stores hold the same: for each stream how many events it has, and a checksum that
rolls over them, as they are in the clear. Where two differ, each event is looked at."""

import functools
import hashlib
import struct
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from mcp_persist_middleware.model import EventKind, StreamKind
from mcp_persist_middleware.ops.away import away
from mcp_persist_middleware.ops.copy.codecs import Decoder
from mcp_persist_middleware.ops.copy.comparison import Comparison
from mcp_persist_middleware.ops.copy.copying import Progress, Report, events_of
from mcp_persist_middleware.ops.copy.rows import (
    KIND,
    LAST,
    MAX_BYTES,
    MAX_EVENTS,
    PAYLOAD,
    SEQUENCE,
    STREAM,
    EventKey,
    EventRow,
    Row,
    at,
    is_kept,
)
from mcp_persist_middleware.ops.copy.store import Readable
from mcp_persist_middleware.ops.copy.verifying_beside import compare_beside
from mcp_persist_middleware.protocol.event_id import EventIds
from mcp_persist_middleware.settings import Settings

_ROWS = 1000
_HEAD = struct.Struct(">QIBQ")
_TELL = 1000


@dataclass(slots=True)
class Sum:
    """What there is of a stream."""

    events: int = 0
    last: int = 0
    bytes: int = 0
    """As they are stored."""
    rolling: "hashlib.blake2b" = field(
        default_factory=lambda: hashlib.blake2b(digest_size=16, usedforsecurity=False)
    )

    def add(self, event: EventRow, reader: Decoder | None) -> None:
        """Roll over the next event."""
        self.events, self.last = self.events + 1, event[SEQUENCE]
        self.bytes += len(event[PAYLOAD])
        if reader is not None:
            frame = _clear(event, reader)
            self.rolling.update(_HEAD.pack(*event[SEQUENCE : KIND + 1], len(frame)))
            self.rolling.update(frame)


async def compare_stores(
    source: Readable, target: Readable, settings: Settings, others: Settings, report: Report
) -> Comparison:
    """Compare what has not expired."""
    readers = Decoder(settings), Decoder(others)
    found, totals = Comparison(), (hashlib.blake2b(digest_size=16), hashlib.blake2b(digest_size=16))
    there = sums(target, readers[1])
    other = await anext(there, None)
    async for row, sum_ in sums(source, readers[0]):
        id_ = row["id"]
        while other is not None and other[0]["id"] < id_:
            totals[1].update(other[0]["id"] + other[1].rolling.digest())
            other = await anext(there, None)
        found.streams, found.events = found.streams + 1, found.events + sum_.events
        totals[0].update(id_ + sum_.rolling.digest())
        if found.streams % _TELL == 0:
            report(Progress("verify", found.streams, found.events))
        if other is None or other[0]["id"] != id_:
            found.note("missing", _named(id_))
            continue
        if sum_.rolling.digest() != other[1].rolling.digest():
            found.note(await _verdict(source, target, id_, (sum_, other[1]), readers), _named(id_))
    while other is not None:
        totals[1].update(other[0]["id"] + other[1].rolling.digest())
        other = await anext(there, None)
    found.checksums = (totals[0].hexdigest(), totals[1].hexdigest())
    await compare_beside(source, target, found, readers)
    return found


async def sums(store: Readable, reader: Decoder | None) -> AsyncIterator[tuple[Row, Sum]]:
    """What there is of each stream of a store, in order; checksums where there is a reader."""
    now, begun = await store.now(), b""
    while rows := await store.streams(begun, _ROWS):
        position, until = EventKey(begun, LAST), rows[-1]["id"]
        found = {row["id"]: Sum() for row in rows if is_kept(row, now)}
        left = [row for row in rows if row["id"] in found]
        while events := await store.events(position, until, MAX_EVENTS, MAX_BYTES):
            position = at(events[-1])
            await away(functools.partial(_add, found, events, reader))
            while left and left[0]["id"] < position.stream:
                row = left.pop(0)
                yield row, found.pop(row["id"])
        for row in left:
            yield row, found[row["id"]]
        begun = until


def _add(found: dict[bytes, Sum], events: Sequence[EventRow], reader: Decoder | None) -> None:
    for event in events:
        if (sum_ := found.get(event[STREAM])) is not None:
            sum_.add(event, reader)


def _named(stream: bytes) -> str:
    return "stream " + EventIds.of(stream, StreamKind.POST, None).name


def _clear(event: EventRow, reader: Decoder) -> bytes:
    try:
        return reader.frame(event)
    except ValueError:
        # What cannot be read here was copied as it is.
        return event[PAYLOAD]


async def _verdict(
    source: Readable,
    target: Readable,
    stream: bytes,
    both: tuple[Sum, Sum],
    readers: tuple[Decoder, Decoder],
) -> str:
    """What is to be said of a stream that differs. What may be dropped when room is needed may be
    in the one and not in the other."""
    end = min(sum_.last for sum_ in both)
    mine = _one(source, stream, end)
    theirs = _one(target, stream, end)
    ours, other = await anext(mine, None), await anext(theirs, None)
    while ours is not None or other is not None:
        numbers = [event[SEQUENCE] for event in (ours, other) if event is not None]
        first = min(numbers)
        here = ours if ours is not None and ours[SEQUENCE] == first else None
        there = other if other is not None and other[SEQUENCE] == first else None
        if not _agree(here, there, readers):
            return "different"
        ours = await anext(mine, None) if here is not None else ours
        other = await anext(theirs, None) if there is not None else other
    return "ahead" if both[1].last > both[0].last else "behind"


def _agree(
    ours: EventRow | None, theirs: EventRow | None, readers: tuple[Decoder, Decoder]
) -> bool:
    if ours is not None and theirs is not None:
        is_same = ours[SEQUENCE : KIND + 1] == theirs[SEQUENCE : KIND + 1]
        return is_same and _clear(ours, readers[0]) == _clear(theirs, readers[1])
    only = ours or theirs
    return only is not None and only[KIND] <= EventKind.MESSAGE


async def _one(store: Readable, stream: bytes, end: int) -> AsyncIterator[EventRow]:
    async for page in events_of(store, stream):
        for event in page:
            if event[SEQUENCE] > end:
                return
            yield event
