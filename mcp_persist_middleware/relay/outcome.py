"""What becomes of a request that was put to another worker, as its sender sees it. Pure."""

import enum
from dataclasses import dataclass

from mcp_persist_middleware.model import Certainty, RelayState, RelayStatus


class RelayFailure(enum.Enum):
    """Why there is no reply."""

    QUEUE_FULL = "queue_full"
    """Too much waits for the session's worker, or runs there for this session or its owner."""
    TIMEOUT = "timeout"
    """Its worker lives, and has not taken it in time; it was not run."""
    UNKNOWN_OUTCOME = "unknown_outcome"
    """Its worker had taken it, or may have, and cannot be heard or cannot answer; nobody runs it
    again."""
    CLIENT_GONE = "client_gone"
    """The client has gone."""
    TOO_LARGE = "too_large"
    """It is larger than what travels between workers."""
    UNSEALED = "unsealed"
    """It belongs to a call at the session's worker, and cannot be sealed for it."""


class Step(enum.Enum):
    """What a sender does about a request that has no reply yet."""

    WAIT = "wait"
    RECALL = "recall"
    """Take it back, for nobody runs it where it lies: the session is to be looked for anew."""
    EXPIRE = "expire"
    """Take it back, for it has waited too long."""
    LEAVE = "leave"
    """It runs, and nobody waits for its answer."""
    VERIFY = "verify"
    """Look once more: its worker's last word may have come between two looks."""
    GIVE_UP = "give up"
    """What became of it will never be known."""


@dataclass(frozen=True, slots=True)
class RelayFacts:
    """All that decides it."""

    state: RelayState | None
    """None when it is not there any more."""
    certainty: Certainty = Certainty.KNOWN
    home_is_gone: bool = False
    is_late: bool = False
    """It was to be claimed by now."""
    has_left: bool = False
    """Its client has, and not only with half of its connection."""
    was_in_doubt: bool = False
    """For longer than the store may take to know better."""
    is_fast: bool = False
    """It could not be taken back."""
    has_moved: bool = False
    """It waits for another worker than it was put to, with its session."""


def step_of(seen: RelayFacts) -> Step:
    """The first row that fits."""
    waiting, claimed = RelayState.PENDING, RelayState.CLAIMED
    match seen:
        case RelayFacts(state=None):
            return Step.GIVE_UP
        case RelayFacts(certainty=Certainty.UNKNOWN, was_in_doubt=True):
            return Step.GIVE_UP
        case RelayFacts(home_is_gone=True, is_fast=False):
            return Step.RECALL
        case RelayFacts(certainty=Certainty.UNDELIVERABLE, is_fast=False):
            return Step.RECALL
        case RelayFacts(state=state, is_late=True, is_fast=False) if state is waiting:
            # It had its time for the home before this one.
            return Step.RECALL if seen.has_moved else Step.EXPIRE
        case RelayFacts(state=state, has_left=True) if state is claimed:
            return Step.LEAVE
        case RelayFacts(home_is_gone=True) | RelayFacts(certainty=Certainty.OVERDUE):
            return Step.VERIFY
        case _:
            return Step.WAIT


def is_lost(before: RelayStatus, last: RelayStatus | None) -> bool:
    """Whether a request has no answer at the second look either, and will have none."""
    if last is None:
        return True
    if last.state is RelayState.REPLIED:
        return False
    # It may be another worker's by now.
    is_theirs = last.worker == before.worker and last.state is RelayState.CLAIMED
    return is_theirs or last.certainty is Certainty.UNKNOWN
