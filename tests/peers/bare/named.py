"""Every difference that is meant, with its reason. What is not here is a fault."""

from collections.abc import Callable
from dataclasses import dataclass

from tests.peers.bare.differ import Difference, slack
from tests.peers.bare.seen import (
    Seen,
    adds_an_error,
    is_another_path,
    is_comment_elsewhere,
    is_early,
    is_foreign_cursor,
    is_head_elsewhere,
    is_left,
    is_left_unread,
    is_not_relayed,
    is_of_another,
    is_read_first,
    is_refused_first,
    is_stale_reply,
    is_stream_of_session,
    is_whole_reply,
    streams,
    tells_of_tasks,
    without_question,
)
from tests.peers.bare.sites import STORE_TIMEOUT


@dataclass(frozen=True, slots=True)
class Named:
    """A difference that is meant."""

    name: str
    applies: Callable[[Seen, Difference], bool]
    reason: str


_NO_STORE = ("header cache-control", "header x-accel-buffering")
_OF_A_STREAM = ("header transfer-encoding", "header content-length", "connection")
NAMED: list[Named] = [
    Named(
        "ids",
        lambda seen, it: streams(seen) and it.what == "event ids",
        "an event has an id that its client can come back with: the product; ours replace the "
        "application's own, which only it could resolve",
    ),
    Named(
        "priming",
        lambda seen, it: streams(seen) and it.what == "empty events",
        "a stream of 2025-11-25 and later begins with an id and no data (SEP-1699)",
    ),
    Named(
        "retry",
        lambda seen, it: streams(seen) and it.what == "retry",
        "a stream says how soon to come back",
    ),
    Named(
        "framing of a stream",
        lambda seen, it: streams(seen) and it.what in _OF_A_STREAM,
        "an event stream leaves in pieces of our own making, with or without a length",
    ),
    Named(
        "tasks",
        tells_of_tasks,
        "a server that has no tasks of its own has ours, and its clients are told so",
    ),
    Named(
        "an end for every request",
        adds_an_error,
        "a stream that the application ended without an answer ends with an error: no client "
        "waits for what nobody computes",
    ),
    Named(
        "one stream for a session",
        is_stream_of_session,
        "a session's clients share one GET stream of the application, the newest reads, and none "
        "is refused because of an older one; what was said at its opening went to the first",
    ),
    Named(
        "a cursor that is none of ours",
        is_foreign_cursor,
        "404 and a sentence: an application that knows no resumption would begin a new stream "
        "and pass over in silence what the client has missed",
    ),
    Named(
        "an early start",
        is_early,
        "a client whose connection is lost before a late answer would hold no id: after "
        "`prime_after` a stream begins, and the answer is its event",
    ),
    Named(
        "a relayed answer is whole",
        is_whole_reply,
        "an answer that is no stream crosses to another worker when it is whole; an application "
        "that raises in its middle is a 500 there and not a cut body",
    ),
    Named(
        "a half-closed connection",
        is_left,
        "uvicorn and granian drop what is sent, and granian now and then the request, when they "
        "have read their client's end: bare by chance too, and ours is committed first; under "
        "hypercorn who has only nothing more to say is answered, where SDKs cut him off",
    ),
    Named(
        "a body that does not cross to another worker",
        is_not_relayed,
        "a request is relayed whole: one over `max_body_bytes` is refused with 413, and one that "
        "breaks off, or whose client is gone before it crosses, has nobody who waits for it",
    ),
    Named(
        "a relayed head comes with what follows",
        is_head_elsewhere,
        "the head of a stream leaves when its worker has said that it is committed; of what the "
        "stream says nothing is later",
    ),
    Named(
        "comments stay with the worker that runs the call",
        is_comment_elsewhere,
        "a comment is not stored, and nothing else crosses to the worker of its client, which "
        "sends keep-alives of its own, every `ping_seconds`",
    ),
    Named(
        "an answer to nothing that is asked here",
        is_stale_reply,
        "a session that came back has not asked what this answers: 409 and a sentence, not a 202 "
        "for what goes nowhere",
    ),
    Named(
        "a body is read first",
        is_read_first,
        "a body is read before the application sees the request; an application that answers "
        "without reading it closes the connection by that, ours keeps it",
    ),
    Named(
        "a body that is refused unread",
        is_left_unread,
        "whether granian keeps the connection then, and whether the refusal arrives on one that "
        "it closes, is chance: of 300 connections each bare lost 49 and ours 59",
    ),
    Named(
        "a session comes back for its owner",
        is_of_another,
        "an SDK serves whoever holds a session's id; one that it has forgotten is brought back "
        "only for the principal that began it, and unknown to any other (G7)",
    ),
    Named(
        "who asks comes before what is asked",
        is_refused_first,
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
            and (seen.request.session == "unknown" or is_another_path(seen.request.target))
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
            and without_question(seen.bare) == without_question(seen.ours)
        ),
        "in a session that came back a question's id says which life it is of, so that an old "
        "answer never confirms a new question",
    ),
    Named(
        "the store is tried",
        lambda seen, it: (
            seen.state == "degraded"
            and it.what in ("later head", "later end", "longer silence")
            and seen.ours.total < seen.bare.total + 2 * STORE_TIMEOUT + slack()
        ),
        "a store that fails is tried for `store_timeout` before a stream goes on without it",
    ),
    Named(
        "headers of a stream",
        lambda seen, it: streams(seen) and it.what in _NO_STORE and it.bare == "[]",
        "an event stream must not be stored or held back by what lies between",
    ),
]


def name_of(seen: Seen, difference: Difference) -> str | None:
    """The exception that a difference is, if it is one."""
    return next((each.name for each in NAMED if each.applies(seen, difference)), None)
