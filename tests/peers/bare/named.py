"""Every difference that is meant, with its reason. What is not here is a fault."""

import json
from collections.abc import Callable, Sequence
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
    before: Sequence[tuple[Request, Answer]] = ()
    """The earlier steps of its case, and what ours answered to them."""


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


def _is_stream_of_session(seen: Seen, it: Difference) -> bool:
    if seen.request.method != "GET" or not seen.ours.is_stream:
        return False
    told = it.what in ("payloads", "header mcp-session-id")
    return (_streams(seen) and told) or (seen.bare.status == 409 and it.what in ("status", "end"))


def _is_whole_reply(seen: Seen, it: Difference) -> bool:
    failed = seen.ours.status == 500 and seen.state == "elsewhere"
    broken = seen.bare.status == 500 or seen.bare.end == "cut"
    return failed and broken and it.what in ("status", "end")


def _is_closed_at_once(seen: Seen, it: Difference) -> bool:
    """uvicorn closes a connection as soon as it reads its client's end."""
    closes = seen.http == "uvicorn" and seen.request.framing in ("half close", "short")
    gone = (seen.ours.status, seen.ours.end) == (0, "closed") or seen.ours.end == "cut"
    return closes and gone and it.what in ("status", "end")


def _is_read_first(seen: Seen, it: Difference) -> bool:
    if it.what == "interim":
        return it.ours == "[100]" and seen.bare.status >= 400
    if it.what in ("status", "end") and seen.bare.end in ("reset", "closed"):
        # A refusal on a connection that is closed upon unread bytes may be lost on its way.
        return seen.ours.status == 413
    closing = it.what == "connection"
    return closing and seen.ours.kept and not seen.bare.kept and bool(seen.request.body())


def _is_early(seen: Seen, it: Difference) -> bool:
    """JSON that came late is the one event of a stream that began before it."""
    if not seen.ours.is_stream or seen.bare.is_stream or seen.bare.first < 1.0:
        return False
    told = [frame.data for frame in frames(seen.ours.body) if frame.data]
    same = len(told) == 1 and told[0] == seen.bare.body.decode()
    return same and len(seen.bare.body) < _LARGEST and it.what.startswith(("header ", "body"))


def _without_question(answer: Answer) -> list[dict[str, object]]:
    told = [json.loads(f.data) for f in frames(answer.body) if f.data and f.data[0] == "{"]
    return [{k: v for k, v in it.items() if k != "id" or "method" not in it} for it in told]


def _does_not_cross(request: Request, ours: Answer) -> bool:
    """A body that is over the cap, or that breaks off; or its client is gone before it crosses."""
    gone = request.framing in ("short", "half close") and ours.status == 0
    return ours.status == 413 or gone


def _is_not_relayed(seen: Seen, it: Difference) -> bool:
    if seen.state != "elsewhere":
        return False
    if seen.ours.status == 413 and len(seen.request.body()) > _CAP:
        return it.what in ("status", "end", "connection", "interim")
    missed = any(_does_not_cross(*step) for step in seen.before)
    return missed and it.what == "payloads" and "how many" in seen.request.id


def _is_comment_elsewhere(seen: Seen, it: Difference) -> bool:
    lost = seen.state == "elsewhere" and _streams(seen)
    return lost and b"\n:" in b"\n" + seen.bare.body and it.what in ("comments", "longer silence")


def _is_another_path(target: str) -> bool:
    return target.partition("?")[0] not in ("/mcp", "/mcp/")


_OF_THE_CALLER = (401, 403, 421, 429)


def _is_refused_first(seen: Seen, it: Difference) -> bool:
    """Of two refusals, that of the caller and not that of the body."""
    refused = seen.bare.status == 413 and seen.ours.status in _OF_THE_CALLER
    asked = seen.state in ("back", "elsewhere")
    return asked and refused and it.what in ("status", "end", "connection", "interim")


# What clients take as one event.
_LARGEST = 1 << 20
# `max_body_bytes`
_CAP = 4 << 20
_OF_A_STREAM = ("header transfer-encoding", "header content-length", "connection")
_NO_STORE = ("header cache-control", "header x-accel-buffering")

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
        _is_stream_of_session,
        "a session's clients share one GET stream of the application, the newest reads, and none "
        "is refused because of an older one; what was said at its opening went to the first",
    ),
    Named(
        "a cursor that is none of ours",
        _is_foreign_cursor,
        "404 and a sentence: an application that knows no resumption would begin a new stream "
        "and pass over in silence what the client has missed",
    ),
    Named(
        "an early start",
        _is_early,
        "a client whose connection is lost before a late answer would hold no id: after "
        "`prime_after` a stream begins, and the answer is its event",
    ),
    Named(
        "a relayed answer is whole",
        _is_whole_reply,
        "an answer that is no stream crosses to another worker when it is whole; an application "
        "that raises in its middle is a 500 there and not a cut body",
    ),
    Named(
        "a half-closed connection that the server closes",
        _is_closed_at_once,
        "uvicorn drops what is sent after it has read its client's end: only what an application "
        "sends in that very instant is on its way; ours is committed first",
    ),
    Named(
        "a body that does not cross to another worker",
        _is_not_relayed,
        "a request is relayed whole: one over `max_body_bytes` is refused with 413, and one that "
        "breaks off, or whose client is gone before it crosses, has nobody who waits for it",
    ),
    Named(
        "comments stay with the worker that runs the call",
        _is_comment_elsewhere,
        "a comment is not stored, and nothing else crosses to the worker of its client, which "
        "sends keep-alives of its own, every `ping_seconds`",
    ),
    Named(
        "a body is read first",
        _is_read_first,
        "a body is read before the application sees the request; an application that answers "
        "without reading it closes the connection by that, ours keeps it",
    ),
    Named(
        "who asks comes before what is asked",
        _is_refused_first,
        "to bring a session back the application is asked about its caller first: whom it refuses "
        "hears that, and not that the body is too large as well",
    ),
    Named(
        "a deletion is remembered",
        lambda seen, it: (
            seen.state == "degraded"
            and seen.request.method == "DELETE"
            and (seen.bare.status, seen.ours.status) == (200, 503)
        ),
        "a session whose end cannot be written down would come back after a crash: 503, and it "
        "lives until the store is back",
    ),
    Named(
        "a session that only the store can know",
        lambda seen, it: (
            seen.state == "degraded"
            and seen.ours.status == 503
            and it.what in ("status", "end")
            and (seen.request.session == "unknown" or _is_another_path(seen.request.target))
            and any(
                said in seen.ours.body for said in (b"session store", b"worker of this session")
            )
        ),
        "503 and ask again: a 404 would make a client drop a session that another worker holds, "
        "and the application may know its id as somebody else's",
    ),
    Named(
        "questions have ids of their own",
        lambda seen, it: (
            seen.state in ("back", "elsewhere")
            and it.what == "payloads"
            and _without_question(seen.bare) == _without_question(seen.ours)
        ),
        "in a session that came back a question's id says which life it is of, so that an old "
        "answer never confirms a new question",
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
        lambda seen, it: _streams(seen) and it.what in _NO_STORE and it.bare == "[]",
        "an event stream must not be stored or held back by what lies between",
    ),
]


def name_of(seen: Seen, difference: Difference) -> str | None:
    """The exception that a difference is, if it is one."""
    return next((each.name for each in NAMED if each.applies(seen, difference)), None)
