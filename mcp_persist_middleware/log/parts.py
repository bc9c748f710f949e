"""The parts of a store beside its streams: the registry of sessions, the relayed requests between
workers, and the table of the workers."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from mcp_persist_middleware.errors import UnsupportedError
from mcp_persist_middleware.log.clock import Timed
from mcp_persist_middleware.log.whose import Whose
from mcp_persist_middleware.model import (
    Beat,
    EnqueueResult,
    RelayRequest,
    RelayRequestId,
    RelayStatus,
    SessionKey,
    SessionRecord,
    SessionStreamState,
    WorkerState,
)

_PAGE = 1000


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
        """Give a session a new home and the next generation, if it is not deleted and still in this
        one: of many who try at once, one succeeds. The relayed requests that wait for the old home
        may be addressed to the new one in the same transaction."""

    @abstractmethod
    async def note(self, record: SessionRecord) -> None:
        """Keep what revival has to repeat: fingerprint, level and subscriptions; of a session that
        is deleted, or in another generation by now, nothing."""

    @abstractmethod
    async def touch(self, keys: Iterable[SessionKey], expires_at: float) -> int:
        """These sessions were used: they expire later. How many of them live."""

    @abstractmethod
    async def delete(
        self, key: SessionKey, expires_at: float, generation: int | None = None
    ) -> bool:
        """Delete a session for every worker, and what its client said with it. A tombstone stays
        until `expires_at`, so that nobody who still holds the session brings it back.

        With a `generation` only in that one: false when the session lives on in another. One that
        is deleted already, or was never there, is deleted."""

    @abstractmethod
    async def purge(self, now: float, limit: int) -> int:
        """Remove at most `limit` sessions that have expired by `now`; how many went."""

    async def list(
        self, after: SessionKey | None, limit: int
    ) -> Sequence[tuple[SessionRecord, SessionStreamState]]:
        """The first sessions behind one, deleted ones included, in some order of the store's own:
        for who copies it. Nothing that serves asks this, and a registry need not have it."""
        del after, limit
        raise _lacks(self, "Sessions.list")

    async def own_streams(self, namespace: str | None = None) -> Collection[bytes]:
        """The own streams of all sessions, or of a namespace's, running or not: any of them may go
        on. Who follows everything asks this when it begins. A registry that lists can tell."""
        found: set[bytes] = set()
        after: SessionKey | None = None
        while page := await self.list(after, _PAGE):
            after = page[-1][0].key
            for record, state in page:
                if state.stream and namespace in (None, record.key.namespace):
                    found.add(state.stream)
        return found

    async def forget(self, whose: Whose) -> Collection[SessionKey]:
        """Remove the sessions that belong to somebody, deleted ones too; which went. A registry
        need not have it."""
        del whose
        raise _lacks(self, "Sessions.forget")

    # A session's own stream.

    @abstractmethod
    async def stream_state(self, key: SessionKey) -> SessionStreamState | None:
        """What the workers share of a session's own stream; None when there is no such session."""

    @abstractmethod
    async def begin_stream(self, key: SessionKey, stream: bytes) -> None:
        """From now on this is the session's own stream; nobody has read any of it."""

    @abstractmethod
    async def activate(self, key: SessionKey, turn: int, worker: str) -> bool:
        """Take the turn after this one for a connection to a worker: of many who try at once, one
        succeeds."""

    @abstractmethod
    async def checkpoint(
        self, key: SessionKey, turn: int, worker: str, stream: bytes, sequence: int
    ) -> bool:
        """Note where the holder of a turn is, nowhere if it has left; False when it holds the turn
        no more. How far its client has read is noted in any case, if that is further than is known
        and in the session's stream."""


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
    """Relayed requests between workers: requests for sessions that are at home on another one.

    A relayed request is claimed by its addressee or withdrawn by its sender, never both, and
    neither twice, whatever a store forgets. Whether a session is at home where a relayed request is
    claimed, in its generation, is the addressee's to see: an inbox may refuse a relayed request to
    where the session is not, or address it anew, and need not. Every method raises `StoreError`
    when the store does not do it. The topics of the log's `wakeups` are a relayed request's id for
    its sender, `topic(worker)` for an addressee.
    """

    @staticmethod
    def topic(worker: str) -> bytes:
        """What a worker subscribes to in order to be woken when relayed requests wait for it."""
        return worker.encode()

    look_seconds = math.inf
    """An addressee looks this often, woken or not."""

    @abstractmethod
    async def publish(self, worker: str, public_key: bytes) -> None:
        """Let the others know the key to which relayed requests for an enrolled worker are
        sealed."""

    @abstractmethod
    async def public_key(self, worker: str) -> bytes | None:
        """That key; None when the worker has none."""

    @abstractmethod
    async def put(self, request: RelayRequest, most: int) -> EnqueueResult:
        """Enqueue a relayed request if fewer than `most` wait there, and, as far as the inbox
        knows, the session is where it is addressed to."""

    @abstractmethod
    async def claim(
        self, worker: str, limit: int, now: float, deadline: float
    ) -> list[RelayRequest]:
        """Take the oldest relayed requests that wait for a worker and are not late, each with the
        generation it is addressed to now. Their content is nowhere else any more, and by the new
        deadline they are answered or renewed, else they are overdue (`Certainty`). Those that are
        `void` are there to be answered only."""

    @abstractmethod
    async def claimed(self, worker: str) -> list[bytes]:
        """The relayed requests that a worker has claimed and not answered."""

    @abstractmethod
    async def renew(
        self, worker: str, requests: Collection[bytes], deadline: float
    ) -> Collection[bytes]:
        """This worker still runs these relayed requests, which it has claimed, until the deadline
        at least. Those of them that are there: of the others nobody waits for the answer any
        more."""

    @abstractmethod
    async def withdraw(self, request: RelayRequestId) -> bool:
        """Remove a relayed request that still waits; False when it is too late for that, or may
        be."""

    @abstractmethod
    async def tombstone(self, request: RelayRequestId, deadline: float, reply: bytes = b"") -> bool:
        """See that a relayed request whose `put` was not answered is not enqueued by it later,
        until the deadline; False when it is in the inbox already, or was. After that `put` raises
        `StoreError`. A `reply` that stands in its place is what its sender finds."""

    @abstractmethod
    async def answer(self, request: bytes, worker: str, reply: bytes, deadline: float) -> bool:
        """Answer a relayed request that this worker has claimed, once; the reply is kept until the
        deadline. False when there is nothing to answer."""

    @abstractmethod
    async def look(self, request: RelayRequestId) -> RelayStatus | None:
        """Where a relayed request is; None when it is gone."""

    @abstractmethod
    async def remove(self, requests: Collection[RelayRequestId]) -> None:
        """These relayed requests' answers have been read."""

    @abstractmethod
    async def purge(self, now: float, limit: int) -> int:
        """Remove at most `limit` relayed requests whose deadline is over; how many went."""

    async def forget(self, is_meant: Callable[[SessionKey], bool], workers: Collection[str]) -> int:
        """Remove the relayed requests of some sessions, with their replies as far as they are
        known to be theirs; how many went. An inbox need not have it.

        Args:
            workers: all to whom one may be addressed.
        """
        del is_meant, workers
        raise _lacks(self, "Inbox.forget")


def _lacks(part: Sessions | Inbox, method: str) -> UnsupportedError:
    what = "sessions" if isinstance(part, Sessions) else "relayed requests"
    return UnsupportedError(url=f"of the {what}", kind=type(part).__name__, method=method)
