"""What a store of streams has to do."""

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

from mcp_persist_middleware.model import (
    Beat,
    Event,
    Letter,
    LetterName,
    LetterStatus,
    Listening,
    Outcome,
    Posted,
    SessionKey,
    SessionRecord,
    StreamRecord,
    StreamWrite,
    WorkerState,
)
from mcp_persist_middleware.signals.base import Polling, Wakeups

_POLLING = Polling(0.25)


class Removed(NamedTuple):
    """How much retention removed."""

    streams: int = 0
    events: int = 0


@dataclass(frozen=True, slots=True)
class Purged:
    """What one step of retention removed, by namespace; `more` when it did not get to the end."""

    removed: Mapping[str, Removed]
    more: bool

    @classmethod
    def of(cls, parts: Iterable[tuple[str, Removed]], *, more: bool) -> Self:
        """The sum of parts, each with its namespace."""
        removed: dict[str, Removed] = {}
        for namespace, part in parts:
            before = removed.get(namespace, Removed())
            streams, events = before.streams + part.streams, before.events + part.events
            removed[namespace] = Removed(streams, events)
        return cls(removed, more)

    @property
    def streams(self) -> int:
        """Of all namespaces."""
        return sum(part.streams for part in self.removed.values())

    @property
    def events(self) -> int:
        """Of all namespaces."""
        return sum(part.events for part in self.removed.values())


class Sessions(ABC):
    """The registry of sessions that every worker on a store shares.

    Every method raises `StoreError` when the store does not do it.
    """

    @abstractmethod
    async def create(self, record: SessionRecord) -> bool:
        """Commit a new session; False when its id is taken, by a deleted one too."""

    @abstractmethod
    async def find(self, key: SessionKey) -> SessionRecord | None:
        """The session, deleted ones included; None when there is none or it was purged."""

    @abstractmethod
    async def move(self, key: SessionKey, generation: int, home: str) -> bool:
        """Give a session a new home and the next generation, if it is not deleted and still in
        this one: of many who try at once, one succeeds. In the same transaction the letters that
        wait in the same store for the old home are addressed to the new one."""

    @abstractmethod
    async def note(self, record: SessionRecord) -> None:
        """Keep what revival has to repeat: fingerprint, level and subscriptions."""

    @abstractmethod
    async def touch(self, keys: Iterable[SessionKey], expires_at: float) -> None:
        """These sessions were used: they expire later."""

    @abstractmethod
    async def delete(self, key: SessionKey, expires_at: float) -> None:
        """Delete a session for every worker. A tombstone stays until `expires_at`, so that
        nobody who still holds the session brings it back."""

    @abstractmethod
    async def purge(self, now: float, limit: int) -> int:
        """Remove at most `limit` sessions that have expired by `now`; how many went."""

    # A session's own stream.

    @abstractmethod
    async def listening(self, key: SessionKey) -> Listening | None:
        """What the workers share of a session's own stream; None when there is no such session."""

    @abstractmethod
    async def add_segment(self, key: SessionKey, stream: bytes) -> None:
        """The session's own stream goes on in another one."""

    @abstractmethod
    async def take_turn(self, key: SessionKey, turn: int, worker: str) -> bool:
        """Take the turn after this one for a connection to a worker: of many who try at once, one
        succeeds."""

    @abstractmethod
    async def hold_turn(
        self, key: SessionKey, turn: int, worker: str, stream: bytes, sequence: int
    ) -> bool:
        """Note where the holder of a turn is, nowhere if it has left, and how far its client has
        read; False when it holds the turn no more. What it has read is noted all the same if it
        is in the stream that was read last."""


class WorkerTable(ABC):
    """The workers on a store, through connections that nothing else uses.

    It belongs to the event loop that first uses it. Every method raises `StoreError` when the
    store does not do it; after that the table is closed and another one is made.
    """

    @abstractmethod
    async def enrol(self, worker: str) -> None:
        """Make the row of a worker that has none."""

    @abstractmethod
    async def beat(self, worker: str, state: WorkerState) -> bool:
        """Move a worker's counter; False when it has no row or was declared dead."""

    @abstractmethod
    async def look(self) -> Mapping[str, Beat]:
        """Every worker that has a row."""

    @abstractmethod
    async def aclose(self) -> None:
        """Close the connections."""


class Inbox(ABC):
    """Letters between workers: requests for sessions that are at home on another one.

    A letter is claimed by its addressee or withdrawn by its sender, never both, and neither twice,
    whatever a store forgets. Whether a session is at home where a letter is claimed, in its
    generation, is the addressee's to see: an inbox may refuse a letter to where the session is not,
    or address it anew, and need not. Every method raises `StoreError` when the store does not do
    it. The topics of the log's `wakeups` are a letter's id for its sender, `topic(worker)` for an
    addressee.
    """

    @staticmethod
    def topic(worker: str) -> bytes:
        """What a worker subscribes to in order to be woken when letters wait for it."""
        return worker.encode()

    look_seconds = math.inf
    """An addressee looks this often, woken or not."""

    @abstractmethod
    async def publish(self, worker: str, public_key: bytes) -> None:
        """Let the others know the key to which letters for an enrolled worker are sealed."""

    @abstractmethod
    async def public_key(self, worker: str) -> bytes | None:
        """That key; None when the worker has none."""

    @abstractmethod
    async def put(self, letter: Letter, most: int) -> Posted:
        """Post a letter if fewer than `most` wait there, and, as far as the inbox knows, the
        session is where it is addressed to."""

    @abstractmethod
    async def claim(self, worker: str, limit: int, now: float, deadline: float) -> list[Letter]:
        """Take the oldest letters that wait for a worker and are not late, each with the
        generation it is addressed to now. Their content is nowhere else any more, and the new
        deadline is the one for the answer. Those that are `void` are there to be answered only."""

    @abstractmethod
    async def claimed(self, worker: str) -> list[bytes]:
        """The letters that a worker has claimed and not answered."""

    @abstractmethod
    async def withdraw(self, letter: LetterName) -> bool:
        """Remove a letter that still waits; False when it is too late for that, or may be."""

    @abstractmethod
    async def bar(self, letter: LetterName, deadline: float, reply: bytes = b"") -> bool:
        """See that a letter whose posting was not answered is not posted by it later, until the
        deadline; False when it is in the inbox already, or was. After that `put` raises
        `StoreError`. A `reply` that stands in its place is what its sender finds."""

    @abstractmethod
    async def answer(self, letter: bytes, worker: str, reply: bytes, deadline: float) -> bool:
        """Answer a letter that this worker has claimed, once; the reply is kept until the
        deadline. False when there is nothing to answer."""

    @abstractmethod
    async def look(self, letter: LetterName) -> LetterStatus | None:
        """Where a letter is; None when it is gone."""

    @abstractmethod
    async def remove(self, letters: Collection[LetterName]) -> None:
        """These letters' answers have been read."""

    @abstractmethod
    async def purge(self, now: float, limit: int) -> int:
        """Remove at most `limit` letters whose deadline is over; how many went."""


class EventLog(ABC):
    """Streams of numbered events, durable once `append` has returned.

    Every method raises `StoreError` when the store does not do it, and leaves nothing half done.
    One event loop uses one instance.
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """The store's address without its secrets, for messages."""

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
        """The letters between the workers, in the same store."""

    @property
    def lanes(self) -> int:
        """How many calls of `append`, each for other streams, are under way at the same time: more
        than one where the store works while the next batch is made."""
        return 1

    @property
    def wakeups(self) -> Wakeups:
        """What tells of commits by other workers; of a log without, readers look often. A topic is
        the id of a stream or one of those that `Inbox` names."""
        return _POLLING

    @abstractmethod
    async def open(self, worker: str) -> None:
        """Connect, make or check the schema, enrol `worker`."""

    @abstractmethod
    async def aclose(self) -> None:
        """Release what `open` acquired; the worker has left, and everybody can see that. May be
        called at any time, twice too."""

    @abstractmethod
    async def ping(self) -> None:
        """Return when the store can take a write."""

    @abstractmethod
    async def append(self, batch: Sequence[StreamWrite]) -> list[Outcome]:
        """Commit a batch in one transaction; one outcome for each entry, in order.

        An entry is committed whole or not at all, and only if its stream is open in the entry's
        epoch; an entry that is not costs the others nothing. An entry that this same call has
        committed before (a retry after a lost answer) counts as committed.
        """

    @abstractmethod
    async def find(self, stream: bytes) -> StreamRecord | None:
        """The record of a stream, or None."""

    @abstractmethod
    async def read(self, stream: bytes, after: int, max_events: int, max_bytes: int) -> list[Event]:
        """The committed events with a number above `after`, in order: as many as fit, at least
        one if there is one. A number that is missing has been removed by retention."""

    @abstractmethod
    async def attend(self, streams: Collection[bytes], seconds: float) -> None:
        """Note on open streams that somebody reads them for the next so many seconds at least.
        A note never shortens an earlier one."""

    @abstractmethod
    async def attended(self, stream: bytes) -> float | None:
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
    async def dismiss(self, worker: str) -> None:
        """Remove a worker's row: it is gone, and owns no open stream any more."""

    @abstractmethod
    async def owners(self) -> list[str]:
        """The workers of all open streams."""

    @abstractmethod
    async def left_by(self, worker: str, limit: int, after: bytes = b"") -> list[StreamRecord]:
        """Open streams of a worker, the oldest first, from behind one on."""

    @abstractmethod
    async def forget_session(self, namespace: str, path: str, session: str) -> None:
        """Make every stream of a session unreadable; `purge` removes the rows."""

    @abstractmethod
    async def purge(self, now: float, max_events: int) -> Purged:
        """Remove a bounded part of what has expired by `now`: events first, streams last."""
