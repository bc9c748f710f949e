"""Requests on their way to the worker that is the home of their session."""

import enum
from dataclasses import dataclass
from typing import NamedTuple

from mcp_persist_middleware.model.sessions import SessionKey


class RelayState(enum.IntEnum):
    """Where a relayed request is. It is claimed at most once, and never waits again after that."""

    PENDING = 0
    CLAIMED = 1
    REPLIED = 2


class RelayRequestId(NamedTuple):
    """What its sender knows a relayed request by."""

    id: bytes
    worker: str
    """Whom it is addressed to."""


@dataclass(frozen=True, slots=True)
class RelayRequest:
    """A request on its way to the worker that is its session's home."""

    id: bytes
    key: SessionKey
    worker: str
    """The addressee."""
    generation: int
    """The session's generation that it is meant for."""
    deadline: float
    """Not claimed by then, it is not run."""
    content: bytes
    sealed: bool
    """Whether only the worker that it was first addressed to can read the content."""
    not_executable: bool = False
    """Nobody may run it, and this worker has not: its sender is to be told so."""

    @property
    def name(self) -> RelayRequestId:
        """What its sender knows it by."""
        return RelayRequestId(self.id, self.worker)


class EnqueueResult(enum.Enum):
    """What became of the attempt to enqueue a relayed request."""

    ENQUEUED = "enqueued"
    FULL = "full"
    """Too many relayed requests wait for this worker."""
    MOVED = "moved"
    """The session is not at this worker, or not in this generation, any more."""


class Certainty(enum.Enum):
    """What a relayed request's state is worth, where a store may forget."""

    KNOWN = "known"
    UNDELIVERABLE = "undeliverable"
    """It waits where its addressee does not look."""
    OVERDUE = "overdue"
    """It was claimed, and its addressee has not said in time that it still runs it."""
    UNKNOWN = "unknown"
    """The store has lost a part of its memory since: whether it was claimed cannot be known."""


class RelayStatus(NamedTuple):
    """A relayed request as its sender sees it. A reply is a reply, whatever the store has lost."""

    state: RelayState
    worker: str
    """Who may claim it, or has."""
    reply: bytes
    """Empty before it is answered."""
    certainty: Certainty = Certainty.KNOWN
