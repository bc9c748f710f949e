"""The streams that are written here, and what SQL does not have of them yet."""

import time
from collections.abc import Iterator

from mcp_persist_middleware import telemetry
from mcp_persist_middleware.errors import StoreError
from mcp_persist_middleware.model import Event, StreamWrite
from mcp_persist_middleware.wakeups.local import Signal

_MAX_EVENTS, _MAX_BYTES = 32_768, 64 * 1024 * 1024
_LOOK = 0.25


class WriteBehindBuffer:
    """A stream whose one writer is here.

    Numbers up to `flushed` are in SQL, those above it up to `last` are in `backlog`, in order:
    so a reader here finds every event in this memory or in SQL, whatever becomes of Redis. Those
    above `claimed` were acknowledged by Redis, but the append that brought them has not returned,
    or has failed with another entry of its batch: nobody has been told of them, and whatever is
    written next takes their place.
    """

    __slots__ = (
        "acknowledged",
        "backlog",
        "begun",
        "confirmed",
        "epoch",
        "flushed",
        "id",
        "indexed",
        "last",
        "resident",
        "since",
        "switched",
        "touched",
    )

    def __init__(self, stream: bytes, epoch: int, last: int) -> None:
        self.id = stream
        self.epoch = epoch
        self.last = self.flushed = self.acknowledged = last
        self.backlog: list[Event] = []
        self.begun = False
        """Redis may hold events of this stream, and goes on after `last`."""
        self.resident = False
        """Redis may hold its keys."""
        self.indexed = False
        """Its name is in the index."""
        self.switched = False
        """It was in Redis once, and went on in SQL."""
        now = time.monotonic()
        self.confirmed = now
        """When SQL last took something in this epoch."""
        self.since = now
        """Since when the oldest of the backlog waits for SQL."""
        self.touched = now

    def unclaimed(self) -> list[Event]:
        """What Redis took of an append that has not returned, or has failed."""
        return self.backlog[self.acknowledged - self.flushed :]

    def page(self, after: int, max_events: int, max_bytes: int) -> list[Event]:
        """The claimed events after a number that SQL has at least."""
        return page(
            self.backlog[after - self.flushed : self.acknowledged - self.flushed],
            max_events,
            max_bytes,
        )

    def follows(self, write: StreamWrite) -> bool:
        """Whether all that an entry does is to add the next numbers of this epoch."""
        expected = self.last
        for event in write.events:
            expected += 1
            if event.sequence != expected or event.epoch != self.epoch:
                return False
        return write.epoch == self.epoch and bool(write.events)


def page(events: list[Event], max_events: int, max_bytes: int) -> list[Event]:
    """As many of the first events as fit, at least one if there is one."""
    size = 0
    for n, event in enumerate(events[:max_events]):
        size += len(event.frame)
        if n and size > max_bytes:
            return events[:n]
    return events[:max_events]


class WriteBehindBuffers:
    """All buffers of a worker, and the bound of what they hold."""

    def __init__(self, name: str, patience: float) -> None:
        self._name = name
        self._patience = patience
        self._buffers: dict[bytes, WriteBehindBuffer] = {}
        # Those with a backlog, the one that waits for SQL the longest first.
        self._dirty: dict[WriteBehindBuffer, None] = {}
        self._room = Signal()
        self.came = Signal()
        """Something waits for SQL."""
        self.events = 0
        self.bytes = 0

    def __iter__(self) -> Iterator[WriteBehindBuffer]:
        return iter(list(self._buffers.values()))

    def get(self, stream: bytes) -> WriteBehindBuffer | None:
        """The buffer of a stream that is written here."""
        return self._buffers.get(stream)

    def begin(self, stream: bytes, epoch: int, last: int) -> None:
        """SQL has a stream of ours up to a number."""
        self._buffers[stream] = WriteBehindBuffer(stream, epoch, last)

    def dirty(self) -> list[WriteBehindBuffer]:
        """Those with a backlog, the oldest first."""
        return list(self._dirty)

    @property
    def is_stuck(self) -> bool:
        """Whether SQL has not taken an event for so long that nothing more may be acknowledged:
        by then others may have taken this worker for dead."""
        oldest = next(iter(self._dirty), None)
        return oldest is not None and time.monotonic() - oldest.since > self._patience

    async def room(self) -> None:
        """Return when there is room for more.

        Raises:
            StoreError: SQL takes nothing.
        """
        while not self.is_stuck:
            if self.events < _MAX_EVENTS and self.bytes < _MAX_BYTES:
                return
            await self._room.wait(_LOOK)
        raise StoreError(
            url=self._name, reason=f"SQL has not taken events for {self._patience:g} s"
        )

    def acknowledge(self, buffer: WriteBehindBuffer, events: tuple[Event, ...]) -> None:
        """Redis has them."""
        now = time.monotonic()
        if not buffer.backlog:
            buffer.since = now
        buffer.backlog.extend(events)
        buffer.last = events[-1].sequence
        buffer.touched = now
        self._dirty.setdefault(buffer)
        self._count(len(events), sum(len(event.frame) for event in events))
        self.came.notify()

    def flushed(self, buffer: WriteBehindBuffer, number: int) -> None:
        """SQL has everything up to a number."""
        gone = buffer.backlog[: max(0, number - buffer.flushed)]
        del buffer.backlog[: len(gone)]
        buffer.flushed = max(buffer.flushed, number)
        buffer.last = max(buffer.last, number)
        buffer.acknowledged = max(buffer.acknowledged, number)
        buffer.confirmed = buffer.since = buffer.touched = time.monotonic()
        self._dirty.pop(buffer, None)
        if buffer.backlog:
            self._dirty[buffer] = None
        self._count(-len(gone), -sum(len(event.frame) for event in gone))
        self._room.notify()

    def disown(self, buffer: WriteBehindBuffer) -> None:
        """Whoever brought the unclaimed events has given them up."""
        gone = buffer.unclaimed()
        del buffer.backlog[len(buffer.backlog) - len(gone) :]
        buffer.last = buffer.acknowledged
        if not buffer.backlog:
            self._dirty.pop(buffer, None)
        self._count(-len(gone), -sum(len(event.frame) for event in gone))

    def drop(self, buffer: WriteBehindBuffer) -> None:
        """The stream has ended, or is not ours any more."""
        if self._buffers.get(buffer.id) is buffer:
            del self._buffers[buffer.id]
        self._dirty.pop(buffer, None)
        self._count(-len(buffer.backlog), -sum(len(event.frame) for event in buffer.backlog))
        buffer.backlog.clear()
        self._room.notify()

    def clear(self) -> None:
        """Nothing is ours any more."""
        for buffer in self:
            self.drop(buffer)

    def _count(self, events: int, size: int) -> None:
        self.events += events
        self.bytes += size
        telemetry.redis_backlog.add(events)
