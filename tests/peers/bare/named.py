"""Every difference that is meant, with its reason. What is not here is a fault."""

from collections.abc import Callable
from dataclasses import dataclass

from tests.peers.bare.differ import Difference
from tests.peers.bare.requests import Request
from tests.peers.bare.wire import Answer


@dataclass(frozen=True, slots=True)
class Seen:
    """Where a difference was seen."""

    state: str
    server: str
    http: str
    request: Request
    bare: Answer
    ours: Answer


@dataclass(frozen=True, slots=True)
class Named:
    """A difference that is meant."""

    name: str
    applies: Callable[[Seen, Difference], bool]
    reason: str


def _streams(seen: Seen) -> bool:
    return seen.bare.is_stream and seen.ours.is_stream


_OF_A_STREAM = ("header transfer-encoding", "header content-length", "connection")
_NO_STORE = ("header cache-control", "header x-accel-buffering", "header connection")

NAMED: list[Named] = [
    Named(
        "ids",
        lambda seen, it: _streams(seen) and it.what == "event ids",
        "an event has an id that its client can come back with: the product; ours replace the "
        "application's own, which only it could resolve",
    ),
    Named(
        "priming",
        lambda seen, it: _streams(seen) and it.what == "empty events",
        "a stream of 2025-11-25 and later begins with an id and no data (SEP-1699)",
    ),
    Named(
        "retry",
        lambda seen, it: _streams(seen) and it.what == "retry",
        "a stream says how soon to come back",
    ),
    Named(
        "framing of a stream",
        lambda seen, it: _streams(seen) and it.what in _OF_A_STREAM,
        "an event stream leaves in pieces of our own making, with or without a length",
    ),
    Named(
        "headers of a stream",
        lambda seen, it: _streams(seen) and it.what in _NO_STORE,
        "an event stream must not be stored or held back by what lies between",
    ),
]


def name_of(seen: Seen, difference: Difference) -> str | None:
    """The exception that a difference is, if it is one."""
    return next((each.name for each in NAMED if each.applies(seen, difference)), None)
