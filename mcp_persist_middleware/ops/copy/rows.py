"""What is copied, as the rows of a store's tables."""

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from mcp_persist_middleware.model import SessionKey

Row = dict[str, Any]
"""A stream, or what is beside them: its columns by name, texts as they were given to the store.
Of a stream that is read `request` says only whether it has one."""

EventRow = tuple[bytes, int, int, int, int, bytes]
"""Stream, sequence, epoch, kind, codec, payload."""

STREAM: Final = 0
SEQUENCE: Final = 1
EPOCH: Final = 2
KIND: Final = 3
CODEC: Final = 4
PAYLOAD: Final = 5

LAST: Final = (1 << 63) - 1
"""No event has a number above it."""
MAX_EVENTS: Final = 10_000
MAX_BYTES: Final = 8 * 1024 * 1024
"""Of a page that is read, and of a transaction that is written."""

_STREAM_BYTES = 512
# What belongs to the workers of the one store, and is nobody's in the other.
_LEFT_BEHIND: Final[Row] = {"reader_until": None, "turn_worker": ""}
# What is written anew whenever it is written (encrypted, for one), and never changes but goes.
_OPAQUE = ("request", "initialize", "inputs", "params")
_PARTIAL: Final[Row] = {"epoch": -1, "request": None}


Key = tuple[Any, ...]
"""What names a row, in the order of its table's key."""


class Beside(enum.Enum):
    """The tables beside those of streams and events: of small rows, which change as a whole."""

    SESSION = "session"
    JOB = "job"
    JOURNAL = "journal"

    @property
    def key(self) -> tuple[str, ...]:
        """The columns of its key."""
        return ("namespace", "path", "id") if self is Beside.SESSION else ("id",)

    @property
    def newest_first(self) -> bool:
        """Whether its key is in the order of time, and the newest is what is asked for first."""
        return self is not Beside.SESSION

    def key_of(self, row: Row) -> Key:
        """What names a row."""
        return tuple([row[name] for name in self.key])


class EventKey(NamedTuple):
    """A place in the table of events, which is in the order of streams and numbers."""

    stream: bytes = b""
    sequence: int = 0


class Extent(NamedTuple):
    """How much there is of a stream."""

    last: int = 0
    events: int = 0


class Selection(NamedTuple):
    """What is wanted of a store; None is everything."""

    namespace: str | None = None
    session: str | None = None
    stream: bytes | None = None

    def of(self, table: Beside) -> dict[str, Any]:
        """What the columns of a table have to be for it."""
        if table is Beside.SESSION:
            return {"namespace": self.namespace, "id": self.session}
        return {"namespace": self.namespace, "session": self.session, "stream": self.stream}


EVERYTHING: Final = Selection()


@dataclass(slots=True)
class Changes:
    """What one transaction does to a store, in this order."""

    gone_streams: list[bytes] = field(default_factory=list)
    """With all of their events."""
    gone_rows: list[tuple[Beside, Key]] = field(default_factory=list)
    gone_events: list[tuple[bytes, int]] = field(default_factory=list)
    new_streams: list[Row] = field(default_factory=list)
    """They were not there."""
    streams: list[Row] = field(default_factory=list)
    """These are so now, whether they were there or not."""
    rows: list[tuple[Beside, Row]] = field(default_factory=list)
    """So are these, of the tables beside."""
    events: list[EventRow] = field(default_factory=list)
    """They were not there."""
    size: int = 0
    """About how many bytes it has."""

    def __bool__(self) -> bool:
        gone = self.gone_streams or self.gone_rows or self.gone_events
        come = self.new_streams or self.streams or self.rows or self.events
        return bool(gone or come)

    def add_events(self, events: Sequence[EventRow]) -> None:
        """Add events."""
        self.events += events
        self.size += sum([len(event[PAYLOAD]) for event in events])

    def add_stream(self, row: Row, *, is_new: bool = False) -> None:
        """Add a stream."""
        (self.new_streams if is_new else self.streams).append(row)
        self.size += _STREAM_BYTES + len(row["request"] or b"")

    def add_rows(self, table: Beside, rows: Sequence[Row]) -> None:
        """Add rows of a table beside."""
        self.rows += [(table, row) for row in rows]
        self.size += sum([_row_bytes(row) for row in rows])

    def count(self, table: Beside) -> int:
        """How many rows of a table beside come."""
        return sum([each is table for each, _ in self.rows])

    @property
    def is_full(self) -> bool:
        """Whether it is enough for one transaction."""
        rows = len(self.events) + len(self.streams) + len(self.new_streams)
        return rows + len(self.rows) >= MAX_EVENTS or self.size >= MAX_BYTES


def _row_bytes(row: Row) -> int:
    return sum([len(value) for value in row.values() if isinstance(value, bytes | str)])


def carried(row: Row) -> Row:
    """What of a row goes along."""
    for name in _LEFT_BEHIND.keys() & row.keys():
        row[name] = _LEFT_BEHIND[name]
    if "deleted" in row:
        # A file has a number there.
        row["deleted"] = bool(row["deleted"])
    return row


def at(event: EventRow) -> EventKey:
    """Where an event is."""
    return EventKey(event[STREAM], event[SEQUENCE])


def partial(row: Row) -> Row:
    """A stream of which not all events are there yet."""
    return row | _PARTIAL


def same(one: Row, other: Row | None) -> bool:
    """Whether two rows say the same, as far as both have a column for it."""
    if other is None or one == other:
        return other is not None
    common = one.keys() & other.keys()
    return all(_comparable(one, name) == _comparable(other, name) for name in common)


def _comparable(row: Row, name: str) -> Any:
    return bool(row[name]) if name in _OPAQUE else row[name]


def key_of(row: Row) -> SessionKey:
    """The key of a session."""
    return SessionKey(row["namespace"], row["path"], row["id"])


def is_kept(row: Row, now: float) -> bool:
    """Whether a row has not expired."""
    expires_at = row.get("expires_at")
    return expires_at is None or expires_at > now
