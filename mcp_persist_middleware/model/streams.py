"""Streams, their events, and what is written to the log about them."""

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

RequestId = int | str | float | None


class StreamKind(enum.StrEnum):
    """The request that made a stream: its answer (POST) or the session's own stream (GET)."""

    POST = "p"
    GET = "g"


class StreamState(enum.IntEnum):
    """Where a stream is in its life. Only an OPEN stream takes events. A GET stream has ended when
    nobody writes it for now: whoever takes it over opens it again."""

    OPEN = 0
    COMPLETE = 1
    """Every request was answered by the application (or a GET stream came to its end)."""
    FAILED = 2
    """It ended without the application's answer; its last event is a JSON-RPC error."""


class EventKind(enum.IntEnum):
    """What an event is worth when room is needed: lower values go first."""

    NOISE = 0
    """Progress and log notifications."""
    MESSAGE = 1
    """Other notifications, and frames that are not JSON-RPC."""
    REQUEST = 2
    """A request of the server to its client. Never dropped."""
    RESPONSE = 3
    """The answer to a request. Never dropped."""


class Event(NamedTuple):
    """One event of a stream: its number and the bytes of its frame, without `id:` line.

    Epoch 0 marks an event that is not in the log (its stream is degraded): it has no id.
    """

    sequence: int
    epoch: int
    kind: EventKind
    frame: bytes
    codec: int = 0
    """How the frame is written (`log.codecs`), 0 to 15; 0 is as it is. A store keeps it beside the
    frame, and looks into neither."""


class Place(NamedTuple):
    """Where a request goes. What is known of one place says nothing about another."""

    namespace: str
    path: str


UNSURE = "~"
"""Begins each part of a principal that counts only where the application asks for it."""

EARLY = "early:"
"""Begins the principal of a stream that began before the application had named its user."""


def surely(principal: str) -> str:
    """What of a principal counts wherever it is sent: the rest may be another with each request,
    and counts nothing when what one caller has is counted."""
    return principal.removeprefix(EARLY).partition(UNSURE)[0]


@dataclass(frozen=True, slots=True)
class Owner:
    """Whom a stream belongs to. A cursor is honoured only by exactly the same owner."""

    namespace: str
    path: str
    session: str
    principal: str

    @property
    def is_known(self) -> bool:
        """Whether more than the stream's id is asked of whoever reads it."""
        return bool(self.session or surely(self.principal))

    @property
    def place(self) -> Place:
        """Where the stream was asked for."""
        return Place(self.namespace, self.path)


@dataclass(frozen=True, slots=True)
class StreamRecord:
    """A stream as the store knows it. Times are seconds since the Unix epoch."""

    id: bytes
    kind: StreamKind
    owner: Owner
    epoch: int
    state: StreamState
    last_sequence: int
    """The last committed number once the stream has ended; 0 while it is open."""
    worker: str
    created_at: float
    ended_at: float | None
    expires_at: float | None
    request_ids: str
    """The JSON array of the request ids that the stream answers."""
    trace: str
    """The W3C `traceparent` of the request that made the stream, or an empty string."""
    request: bytes | None = None
    """The request itself, without credentials, where it may be run again."""


@dataclass(frozen=True, slots=True)
class Ending:
    """The last write to a stream."""

    state: StreamState
    last_sequence: int
    ended_at: float
    expires_at: float


class HighWater(NamedTuple):
    """How far a stream is committed: its high-water mark
    (https://kafka.apache.org/documentation/#replication)."""

    epoch: int
    """That of its last event."""
    sequence: int
    """The number of that."""

    def covers(self, other: "HighWater") -> bool:
        """Whether who has all up to this has all up to the other one."""
        return self.epoch == other.epoch and self.sequence >= other.sequence

    @staticmethod
    def of_both(one: "HighWater | None", other: "HighWater | None") -> "HighWater | None":
        """What two who know it say together; None when one of them does not."""
        return None if one is None or other is None else max(one, other)


@dataclass(slots=True)
class StreamWrite:
    """All that one batch does to one stream: committed together or not at all.

    `epoch` is the epoch the writer holds; the store refuses the whole entry when the stream has
    another one or has ended. `create` is set when the stream begins in this batch.
    """

    id: bytes
    epoch: int
    create: StreamRecord | None = None
    takes_over: int | None = None
    """Move the stream from this epoch to `epoch` first, in the same transaction. A GET stream that
    has ended, and not for its session's sake, is open after that."""
    worker: str | None = None
    """Who writes a stream that was taken over, if it goes on."""
    principal: str | None = None
    """Whose the stream is, where that was not known when it was created."""
    events: tuple[Event, ...] = ()
    ending: Ending | None = None
    trim: int = 0
    """Delete this many of the oldest events that may be dropped (see `EventKind`)."""

    @property
    def known(self) -> int:
        """The last number of the stream that its writer knows of. Who takes a stream over and
        knows of less than there is is refused."""
        if self.events:
            return self.events[0].sequence - 1
        return self.ending.last_sequence if self.ending is not None else (1 << 63) - 1

    @property
    def only_adds(self) -> bool:
        """Whether it adds events and does nothing else to the stream."""
        others = (self.create, self.takes_over, self.principal, self.ending)
        return not self.trim and all(other is None for other in others)

    @property
    def high_water(self) -> HighWater | None:
        """Up to where who reads the stream has all of it after this; None where it may have been
        begun, ended or taken over with this."""
        if not self.events or not self.only_adds:
            return None
        return HighWater(self.epoch, self.events[-1].sequence)

    @property
    def size(self) -> int:
        """The bytes of its events."""
        return sum([len(event.frame) for event in self.events])


def high_waters(writes: Iterable[StreamWrite]) -> dict[bytes, HighWater]:
    """Up to where who reads those streams has all of them after these, where that is known of
    each write to a stream."""
    found: dict[bytes, HighWater | None] = {}
    for write in writes:
        mark = write.high_water
        found[write.id] = HighWater.of_both(found.get(write.id, mark), mark)
    return {stream: mark for stream, mark in found.items() if mark is not None}


class Outcome(enum.Enum):
    """What became of one `StreamWrite`."""

    COMMITTED = "committed"
    FENCED = "fenced"
    """Another writer holds the stream, or it has ended."""
    REJECTED = "rejected"
    """The store refuses these very bytes, whatever the weather."""
