"""Where a request of a session is served. Pure."""

import enum
from dataclasses import dataclass

from mcp_persist_middleware.model import SessionRecord
from mcp_persist_middleware.relay.outcome import RelayFailure


class Home(enum.Enum):
    """Where a session is at home, as far as is known."""

    HERE = "here"
    NOWHERE = "nowhere"
    """Nobody knows it, or its home is gone or lets it go: whoever is asked may bring it back."""
    ELSEWHERE = "elsewhere"
    """At another worker, which lives."""
    VACANT = "vacant"
    """At another worker, which says that it does not hold it."""


@dataclass(frozen=True, slots=True)
class SessionState:
    """All that decides it."""

    home: Home
    record: SessionRecord | None = None
    """The session, where another worker is its home."""
    may_travel: bool = True
    """Whether the request may lie in the store until it is fetched: it carries no secret, or is
    sealed for the session's home."""
    is_to_a_call: bool = False
    """It belongs to a call that runs at the session's home."""


@dataclass(frozen=True, slots=True)
class Here:
    """On this worker."""

    takes_over: bool = False
    """Even from a home that lives."""


@dataclass(frozen=True, slots=True)
class There:
    """At the session's home."""

    record: SessionRecord


def route(state: SessionState) -> Here | There | RelayFailure:
    """The first row that fits."""
    match state:
        case SessionState(Home.HERE | Home.NOWHERE):
            return Here()
        case SessionState(Home.VACANT):
            return Here(takes_over=True)
        case SessionState(record=SessionRecord() as record, may_travel=True):
            return There(record)
        case SessionState(is_to_a_call=True):
            return RelayFailure.UNSEALED
        case _:
            return Here(takes_over=True)
