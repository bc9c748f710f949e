"""What an inspection is asked for, and what it finds."""

from dataclasses import dataclass
from typing import NamedTuple

from mcp_persist_middleware.model import StreamKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which streams or sessions are meant; None leaves it open."""

    id: bytes | None = None
    namespace: str | None = None
    path: str | None = None
    session: str | None = None
    principal: str | None = None
    worker: str | None = None
    is_open: bool | None = None
    kind: StreamKind | None = None
    created_after: float | None = None
    created_before: float | None = None
    ended_before: float | None = None


class Kept(NamedTuple):
    """What there is of a stream's events."""

    first: int
    last: int
    events: int
    size: int


class EventHead(NamedTuple):
    """An event without its payload."""

    sequence: int
    epoch: int
    kind: int
    codec: int
    size: int


class PayloadHead(NamedTuple):
    """How an event is written: its codec, and the first bytes of its payload."""

    stream: bytes
    sequence: int
    codec: int
    begins: bytes


class WorkerRow(NamedTuple):
    """A worker, and how much of the store is its."""

    id: str
    state: int
    seen_at: float
    schema: int | None
    open_streams: int
    readers: int
    """Of its streams, those that somebody reads on another worker."""
    sessions: int


class Count(NamedTuple):
    """What there is of a namespace."""

    namespace: str
    streams: int
    open: int
    failed: int
    events: int
    """That were written to streams which have ended."""
    sessions: int = 0


class Overdue(NamedTuple):
    """What retention has not come to yet; `streams` has a bound."""

    streams: int
    oldest: float | None
