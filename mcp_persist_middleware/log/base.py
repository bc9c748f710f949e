"""What a store of streams has to do."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from mcp_persist_middleware.log.amounts import Purged, Removed, Written
from mcp_persist_middleware.log.jobs import Jobs
from mcp_persist_middleware.log.journal import Journal
from mcp_persist_middleware.log.listing import Listing
from mcp_persist_middleware.log.parts import Inbox, Sessions, WorkerTable
from mcp_persist_middleware.model import (
    Beat,
    Event,
    EventKind,
    Outcome,
    StreamRecord,
    StreamState,
    StreamWrite,
)
from mcp_persist_middleware.settings import Settings
from mcp_persist_middleware.wakeups.base import Polling, Wakeups

__all__ = [
    "Answers",
    "EventLog",
    "LastNumber",
    "MakeLog",
    "Purged",
    "Removed",
    "StoreFacts",
    "Written",
]

MakeLog = Callable[[Settings], "EventLog"]
"""Makes a log that is not open, one for each worker on each event loop."""

_POLLING = Polling(0.25)
_PAGE = (1000, 1024 * 1024)


class LastNumber(NamedTuple):
    """How far a stream is."""

    sequence: int
    """The number of its last event; 0 when there is none."""
    is_open: bool
    epoch: int
    """The one that it is in."""


class Answers(NamedTuple):
    """What a stream has answered."""

    last: int
    """The number of its last event, whatever that is."""
    events: Sequence[Event]


@dataclass(frozen=True, slots=True)
class StoreFacts:
    """What a store tells of itself, as far as it knows; see `Health` for each."""

    schema: int | None = None
    pool_in_use: int | None = None
    pool_size: int | None = None
    redis_up: bool | None = None
    redis_backlog: int | None = None
    replication_lag: float | None = None


class EventLog(Listing, ABC):
    """Streams of numbered events, durable once `append` has returned.

    Every method raises `StoreError` when the store does not do it, and leaves nothing half done.
    One event loop uses one instance.
    """

    def __repr__(self) -> str:
        return f"<{type(self).__qualname__} {self.name}>"

    @property
    def durability(self) -> str:
        """What of a committed event survives, as a part of a sentence."""
        return "what is committed is as safe as the store"

    @property
    @abstractmethod
    def secret(self) -> bytes:
        """A random key that every worker on this store shares and that never leaves it."""

    @property
    @abstractmethod
    def sessions(self) -> Sessions:
        """The registry of sessions in the same store."""

    @property
    @abstractmethod
    def inbox(self) -> Inbox:
        """The relayed requests between the workers, in the same store."""

    @property
    def jobs(self) -> Jobs | None:
        """The jobs, in the same store; None where it keeps none."""
        return None

    @property
    def journal(self) -> Journal | None:
        """The journal in the same store; None where it has none."""
        return None

    @property
    def max_in_flight(self) -> int:
        """How many calls of `append`, each for other streams, are under way at the same time: more
        than one where the store works while the next batch is made."""
        return 1

    @property
    def has_fast_path(self) -> bool:
        """Whether the next events of most open streams are committed sooner than all else just
        now: nothing else is in a batch with them then. Needs `max_in_flight` > 1."""
        return False

    def takes_fast(self, stream: bytes, size: int) -> bool:
        """Whether the next events of an open stream, of so many bytes, go that way just now."""
        del stream, size
        return self.has_fast_path

    @property
    def shared(self) -> "EventLog":
        """The same store for streams that many workers write in turn: nothing that only one of
        them has is between it and them."""
        return self

    @property
    def wakeups(self) -> Wakeups:
        """What tells of commits by other workers; of a log without, readers look often. A topic is
        the id of a stream, one of those that `Inbox` names, or `wakeups.base.ANYTHING`."""
        return _POLLING

    @abstractmethod
    async def open(self, worker: str) -> None:
        """Connect, make or check the schema, enrol `worker`. When it fails, `aclose` follows."""

    @abstractmethod
    async def aclose(self) -> None:
        """Release what `open` acquired, to its end or not; the worker has left, and everybody can
        see that. May be called at any time, twice too."""

    @abstractmethod
    async def ping(self) -> None:
        """Return when the store can take a write."""

    async def check(self) -> None:
        """Return when the store has done a write, a read and a delete, as small as they can be."""
        await self.ping()

    def facts(self) -> StoreFacts:
        """What it knows of itself; nothing is asked."""
        return StoreFacts()

    @abstractmethod
    async def append(self, batch: Sequence[StreamWrite]) -> list[Outcome]:
        """Commit a batch in one transaction; one outcome for each entry, in order.

        An entry is committed whole or not at all, and only if its stream is open in the entry's
        epoch; an entry that is not costs the others nothing. One that takes a stream over is
        fenced when the store has an event above `StreamWrite.known`; it may also take a GET stream
        that has ended, unless its session was forgotten, and opens that again. An entry that this
        same call has committed before (a retry after a lost answer) counts as committed. One that
        names a `principal` gives the stream to that.
        """

    @abstractmethod
    async def find(self, stream: bytes) -> StreamRecord | None:
        """The record of a stream, or None."""

    @abstractmethod
    async def read(self, stream: bytes, after: int, max_events: int, max_bytes: int) -> list[Event]:
        """The committed events with a number above `after`, in order: as many as fit, at least
        one if there is one. A number that is missing has been removed by retention."""

    # Whoever takes a stream over asks these. A store that can tell without reading all of the
    # stream does so.

    async def written(self, stream: bytes, after: int = 0) -> Written:
        found = Written(after)
        while page := await self.read(stream, found.last, *_PAGE):
            size = found.size + sum(len(event.frame) for event in page)
            found = Written(page[-1].sequence, found.events + len(page), size)
        return found

    async def answers(self, stream: bytes, after: int = 0) -> Answers:
        """The answers of a stream after a number."""
        last, found = after, []
        while page := await self.read(stream, last, *_PAGE):
            last = page[-1].sequence
            found += [event for event in page if event.kind is EventKind.RESPONSE]
        return Answers(last, found)

    async def last_numbers(self, streams: Mapping[bytes, int]) -> Mapping[bytes, LastNumber]:
        """How far those of these streams are that are there; each is given with a number of its own
        that is known. Whoever follows many streams asks this again and again."""
        found: dict[bytes, LastNumber] = {}
        for stream, known in streams.items():
            if (record := await self.find(stream)) is None:
                continue
            is_open = record.state is StreamState.OPEN
            last = (await self.written(stream, known)).last if is_open else record.last_sequence
            found[stream] = LastNumber(last, is_open, record.epoch)
        return found

    @abstractmethod
    async def renew_readers(self, streams: Collection[bytes], seconds: float) -> None:
        """Note on open streams that somebody reads them for the next so many seconds at least.
        A note never shortens an earlier one."""

    @abstractmethod
    async def reader_ttl(self, stream: bytes) -> float | None:
        """For how many seconds somebody is still known to read a stream; negative when that is
        over since; None when nobody ever was."""

    @abstractmethod
    def worker_table(self) -> WorkerTable:
        """A new table of the workers, for the thread that keeps this worker alive."""

    def is_gone(self, worker: str) -> bool:
        """Whether it is known without asking the store that a worker's process has ended. False
        says nothing. May be called from any thread."""
        del worker
        return False

    @abstractmethod
    async def workers(self) -> Mapping[str, Beat]:
        """Every worker that has a row."""

    @abstractmethod
    async def declare_dead(self, worker: str, counter: int) -> bool:
        """Take a worker's id from it for good, unless its counter has moved from `counter`;
        whether it is dead. Of its heartbeat and this, one comes first."""

    @abstractmethod
    async def deregister(self, worker: str) -> None:
        """Remove a worker's row: it is gone, and owns no open stream any more."""

    @abstractmethod
    async def active_writers(self) -> list[str]:
        """The workers of all open streams."""

    @abstractmethod
    async def open_streams_of(
        self, worker: str, limit: int, after: bytes = b""
    ) -> list[StreamRecord]:
        """Open streams of a worker, the oldest first, from behind one on."""

    @abstractmethod
    async def expire_session(self, namespace: str, path: str, session: str) -> None:
        """Make every stream of a session unreadable; `purge` removes the rows."""

    @abstractmethod
    async def purge(self, now: float, max_events: int) -> Purged:
        """Remove a bounded part of what has expired by `now`: events first, streams last."""
