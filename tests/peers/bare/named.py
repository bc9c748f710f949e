"""Every difference that is meant, with its reason. What is not here is a fault."""

from collections.abc import Callable
from dataclasses import dataclass

from tests.peers.bare.differ import SLACK, Difference, frames
from tests.peers.bare.requests import Request
from tests.peers.bare.sites import STORE_TIMEOUT
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


def _adds_an_error(seen: Seen, it: Difference) -> bool:
    """Ours are bare's events and an error for the request behind them."""
    if it.what != "payloads" or not _streams(seen):
        return False
    one, other = ([f.data for f in frames(side.body) if f.data] for side in (seen.bare, seen.ours))
    answered = any(data and "result" in data for data in one)
    more = other[len(one) :]
    return not answered and other[: len(one)] == one and len(more) == 1 and '"error"' in more[0]


def _is_foreign_cursor(seen: Seen, _: Difference) -> bool:
    request = seen.request
    return request.method == "GET" and bool(request.cursor) and b"Last-Event-ID" in seen.ours.body


def _is_stream_of_session(seen: Seen) -> bool:
    return seen.request.method == "GET" and _streams(seen)


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
        "an end for every request",
        _adds_an_error,
        "a stream that the application ended without an answer ends with an error: no client "
        "waits for what nobody computes",
    ),
    Named(
        "one stream for a session",
        lambda seen, it: (
            _is_stream_of_session(seen) and it.what in ("payloads", "header mcp-session-id")
        ),
        "a session's clients share one GET stream of the application; what it said at its opening "
        "went to the first, and an id is handed out with it",
    ),
    Named(
        "a cursor that is none of ours",
        _is_foreign_cursor,
        "404 and a sentence: an application that knows no resumption would begin a new stream "
        "and pass over in silence what the client has missed",
    ),
    Named(
        "the store is tried",
        lambda seen, it: (
            seen.state == "degraded"
            and it.what in ("later head", "later end", "longer silence")
            and seen.ours.total < seen.bare.total + 2 * STORE_TIMEOUT + SLACK
        ),
        "a store that fails is tried for `store_timeout` before a stream goes on without it",
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
