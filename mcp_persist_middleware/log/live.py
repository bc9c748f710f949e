"""A stream while its writer is in this process: what waits for the store, and a short tail of
what is committed."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mcp_persist_middleware.log.stored_size import StoredSize
from mcp_persist_middleware.log.tail import Tail
from mcp_persist_middleware.model import Ending, Event, EventKind, StreamRecord, StreamWrite
from mcp_persist_middleware.protocol.event_id import EventIds
from mcp_persist_middleware.protocol.sse import CRLF
from mcp_persist_middleware.wakeups.local import Signal

# Of many that wait for the store at once no more than this (bytes) is told before.
_SHORT = 64 * 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """How much of one stream may be where."""

    run_ahead_events: int
    run_ahead_bytes: int
    stream_events: int
    stream_bytes: int
    tail_events: int = 512
    tail_bytes: int = 1024 * 1024


class LiveStream:
    """Numbers the events of one stream and holds those that are not committed yet.

    Only the `Writer` moves `committed`; readers see nothing above it.
    """

    __slots__ = (
        "_expects_reader",
        "_limits",
        "_settled",
        "_stored",
        "_tail",
        "_waiting",
        "attached",
        "committed",
        "created",
        "degraded",
        "ended",
        "ending",
        "handed",
        "ids",
        "inherited",
        "last",
        "on_lost",
        "on_readers",
        "on_taken",
        "readers",
        "record",
        "said",
        "signal",
        "space_available",
        "waiting_bytes",
        "written_at",
    )

    def __init__(self, record: StreamRecord, ids: EventIds, limits: Limits) -> None:
        self.record = record
        self.ids = ids
        self.created = False
        self.degraded = False
        self.ended = False
        """No event will follow `last`, and everything up to it can be read."""
        self.ending: Ending | None = None
        self.last = 0
        self.committed = 0
        self.inherited = 0
        """The last number that was given before this epoch."""
        self.handed = 0
        """The last event without an id that any reader was given."""
        self.readers = 0
        self.attached = 0
        """How many readers there have been."""
        self.on_readers: Callable[[], None] | None = None
        self.on_lost: Callable[[], None] | None = None
        self.on_taken: Callable[[], None] | None = None
        self.said: tuple[int, bytes] | None = None
        """The newest comment and the number of the last event before it: for whoever listens
        now, never for the store."""
        self.written_at = 0.0
        """When (monotonic) its last batch with events left for the store."""
        self.signal = Signal()
        self.space_available = Signal()
        # The first reader is on its way, and need not read in the store what was just here.
        self._expects_reader = True
        self._limits = limits
        # Not a deque: that takes room for 64 of them while there is none, and most streams idle.
        self._waiting: list[Event] = []
        self.waiting_bytes = 0
        self._tail = Tail(limits.tail_events, limits.tail_bytes)
        self._stored = StoredSize(limits.stream_events, limits.stream_bytes)
        self._settled: str | None = None

    # For the writer of the stream.

    def go_on(self, last: int, events: int, size: int) -> None:
        """The stream is in the store, down to event `last`: so many events of so many bytes."""
        self.created = True
        self.inherited = self.last = self.committed = last
        self._stored.begin(events, size)

    def settle(self, principal: str) -> None:
        """It is known now whose the stream is; the store hears of it with what comes next."""
        owner = dataclasses.replace(self.record.owner, principal=principal)
        self.record = dataclasses.replace(self.record, owner=owner)
        self._settled = principal

    def add(self, kind: EventKind, frame: bytes) -> None:
        """Give the next number to an event."""
        self.last += 1
        if self.degraded:
            self._show((Event(self.last, 0, kind, frame),))
            self.signal.notify()
            return
        self._waiting.append(Event(self.last, self.record.epoch, kind, frame))
        self.waiting_bytes += len(frame)

    def say(self, comment: bytes) -> None:
        """Pass a comment on to the readers that have nothing else to read; only the newest is
        kept for those that cannot take it now."""
        self.said = (self.last, comment)
        self.signal.notify()

    def is_full(self, share: int) -> bool:
        """Whether whoever adds events has to wait for the store; `share` is what one stream may
        have waiting when others write as well.
        """
        return not self.degraded and (
            len(self._waiting) >= min(share, self._limits.run_ahead_events)
            or self.waiting_bytes >= self._limits.run_ahead_bytes
        )

    @property
    def waiting(self) -> int:
        """How many events wait for the store."""
        return len(self._waiting)

    @property
    def only_adds(self) -> bool:
        """Whether all that waits are the next events, and none has to go for them."""
        is_open = self.created and self.ending is None and self._settled is None
        return is_open and not self._stored.excess(len(self._waiting), self.waiting_bytes)

    @property
    def has_work(self) -> bool:
        """Whether anything waits for the store."""
        return (
            bool(self._waiting) or not self.created or (self.ending is not None and not self.ended)
        )

    def next_write(self, max_events: int) -> StreamWrite:
        """What the next batch is to do to this stream."""
        events = tuple(self._waiting[: max(max_events, 1)])
        return StreamWrite(
            self.record.id,
            self.record.epoch,
            create=None if self.created else self.record,
            principal=self._settled if self.created else None,
            events=events,
            ending=self.ending if len(events) == len(self._waiting) else None,
            trim=self._stored.excess(len(events), sum(len(event.frame) for event in events)),
        )

    def commit(self, write: StreamWrite) -> None:
        """The store has it: readers may."""
        if not self.created and self.record.request is not None:
            # Who needs it is another worker.
            self.record = dataclasses.replace(self.record, request=None)
        self.created = True
        told = write.create.owner.principal if write.create is not None else write.principal
        if told == self._settled:
            self._settled = None
        del self._waiting[: len(write.events)]
        self.waiting_bytes -= sum(len(event.frame) for event in write.events)
        self._stored.add(write)
        if write.events:
            self.committed = write.events[-1].sequence
            self._show(write.events)
        if write.ending is not None:
            self.ended = True
        self.signal.notify()
        self.space_available.notify()

    def degrade(self) -> None:
        """Go on without the store: what waits becomes visible without ids, for good."""
        self.degraded = self._tail.keeps_answers = True
        waiting = [Event(e.sequence, 0, e.kind, e.frame) for e in self._waiting]
        self._waiting.clear()
        self.waiting_bytes = 0
        self._show(tuple(waiting))
        self.ended = self.ended or self.ending is not None
        self.signal.notify()
        self.space_available.notify()

    def hand_over(self) -> None:
        """Another worker goes on with it. Whoever reads it here finds the rest there."""
        self._waiting.clear()
        self.waiting_bytes = 0
        self.last = self.committed
        self.ended = True
        self.signal.notify()
        self.space_available.notify()
        if self.on_taken is not None:
            self.on_taken()

    def _show(self, events: tuple[Event, ...]) -> None:
        if not (self.readers or self.degraded or self._expects_reader):
            return
        self._tail.extend(events)

    # For readers.

    def attach(self) -> None:
        """A reader is here: the tail is kept for it."""
        self.readers += 1
        self.attached += 1
        self._expects_reader = False
        if self.on_readers is not None:
            self.on_readers()

    def detach(self) -> None:
        """The reader of one `attach` has left, or nobody is on the way any more."""
        self.readers = max(0, self.readers - 1)
        self._expects_reader = False
        if not self.readers and not self.degraded:
            self._tail.clear()
        if self.on_readers is not None:
            self.on_readers()

    @property
    def visible(self) -> int:
        """The number of the last event that a reader may see."""
        return self.last if self.degraded else self.committed

    @property
    def last_word(self) -> Event | None:
        """The answer that ends the stream, where that alone is not committed yet, and is short."""
        if self.ending is None or len(self._waiting) != 1 or self.waiting_bytes > _SHORT:
            return None
        answer = self._waiting[0]
        return answer if answer.kind is EventKind.RESPONSE else None

    def tail_after(self, sequence: int) -> list[Event] | None:
        """The visible events after a number if the tail holds all that are left, else None."""
        found = self._tail.after(sequence)
        if self.degraded and sequence >= self.committed:
            # What is not here any more is nowhere else either.
            return found
        return found if found and found[0].sequence == sequence + 1 else None

    def response_write(self, found: Sequence[Event] = ()) -> StreamWrite | None:
        """Of an ended degraded stream: its answers, to be logged under a new epoch.

        Args:
            found: events after `committed` that the store has all the same.
        """
        if self.ending is None:
            return None
        epoch = self.record.epoch + 1
        last = found[-1].sequence if found else self.committed
        kept = {event.frame for event in found}
        answers = [
            event
            for event in self._tail
            if event.kind is EventKind.RESPONSE and event.frame not in kept
        ]
        events = tuple(
            Event(last + n, epoch, event.kind, event.frame) for n, event in enumerate(answers, 1)
        )
        if events and (lost := self.last - last - len(events)) > 0:
            # A comment within an event: clients ignore it, and whoever looks at the wire sees it.
            mark = b": gap: %d events before this answer were not logged" % lost + CRLF
            events = (events[0]._replace(frame=mark + events[0].frame), *events[1:])
        ending = Ending(
            self.ending.state,
            last + len(events),
            self.ending.ended_at,
            self.ending.expires_at,
        )
        return StreamWrite(
            self.record.id,
            epoch,
            create=None if self.created else self.record,
            takes_over=self.record.epoch,
            principal=self._settled if self.created else None,
            events=events,
            ending=ending,
        )
