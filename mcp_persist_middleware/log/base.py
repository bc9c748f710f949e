"""What a store of streams has to do."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mcp_persist_middleware.model import (
    Event,
    Outcome,
    SessionKey,
    SessionRecord,
    StreamRecord,
    StreamWrite,
)


@dataclass(frozen=True, slots=True)
class Purged:
    """What one step of retention removed; `more` when it did not get to the end."""

    streams: int
    events: int
    more: bool


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
        this one: of many who try at once, one succeeds."""

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

    @abstractmethod
    async def open(self, worker: str) -> None:
        """Connect, make or check the schema; from now on `worker` is alive."""

    @abstractmethod
    async def aclose(self) -> None:
        """Release what `open` acquired. May be called at any time, twice too."""

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
    def is_alive(self, worker: str) -> bool:
        """Whether the worker that owns a stream may still write to it."""

    @abstractmethod
    async def orphans(self, limit: int) -> list[StreamRecord]:
        """Open streams whose worker is gone, the oldest first."""

    @abstractmethod
    async def forget_session(self, namespace: str, path: str, session: str) -> None:
        """Make every stream of a session unreadable; `purge` removes the rows."""

    @abstractmethod
    async def purge(self, now: float, max_events: int) -> Purged:
        """Remove a bounded part of what has expired by `now`: events first, streams last."""
