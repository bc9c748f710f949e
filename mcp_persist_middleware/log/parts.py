"""The parts of a store beside its streams: the registry of sessions, the letters between workers,
and the table of the workers."""

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping

from mcp_persist_middleware.log.clock import Timed
from mcp_persist_middleware.model import (
    Beat,
    Letter,
    LetterName,
    LetterStatus,
    Listening,
    Posted,
    SessionKey,
    SessionRecord,
    WorkerState,
)


class Sessions(Timed, ABC):
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
        """Delete a session for every worker, and what its client said with it. A tombstone stays
        until `expires_at`, so that nobody who still holds the session brings it back."""

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


class WorkerTable(Timed, ABC):
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


class Inbox(Timed, ABC):
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
        generation it is addressed to now. Their content is nowhere else any more, and by the new
        deadline they are answered or renewed, else they are overdue (`Standing`). Those that are
        `void` are there to be answered only."""

    @abstractmethod
    async def claimed(self, worker: str) -> list[bytes]:
        """The letters that a worker has claimed and not answered."""

    @abstractmethod
    async def renew(
        self, worker: str, letters: Collection[bytes], deadline: float
    ) -> Collection[bytes]:
        """This worker still runs these letters, which it has claimed, until the deadline at least.
        Those of them that are there: of the others nobody waits for the answer any more."""

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
