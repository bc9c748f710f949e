"""Where a difference was seen, and what can be asked of that: whether it is one that is meant."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tests.peers.bare.asked import USERS
from tests.peers.bare.differ import Difference, frames, slack
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
    before: Sequence[tuple[Request, Answer]] = ()
    """The earlier steps of its case, and what ours answered to them."""


def streams(seen: Seen) -> bool:
    return seen.bare.is_stream and seen.ours.is_stream


def adds_an_error(seen: Seen, it: Difference) -> bool:
    """Ours are bare's events and an error for the request behind them."""
    if it.what != "payloads" or not streams(seen):
        return False
    one, other = ([f.data for f in frames(side.body) if f.data] for side in (seen.bare, seen.ours))
    answered = any(data and "result" in data for data in one)
    more = other[len(one) :]
    return not answered and other[: len(one)] == one and len(more) == 1 and '"error"' in more[0]


def is_foreign_cursor(seen: Seen, _: Difference) -> bool:
    request = seen.request
    return request.method == "GET" and bool(request.cursor) and b"Last-Event-ID" in seen.ours.body


def is_stream_of_session(seen: Seen, it: Difference) -> bool:
    if seen.request.method != "GET" or not seen.ours.is_stream:
        return False
    told = it.what in ("payloads", "header mcp-session-id") or "gap:" in it.ours
    return (streams(seen) and told) or (seen.bare.status == 409 and it.what in ("status", "end"))


def is_whole_reply(seen: Seen, it: Difference) -> bool:
    failed = seen.ours.status == 500 and seen.state == "elsewhere"
    broken = seen.bare.status == 500 or seen.bare.end == "cut"
    return failed and broken and it.what.startswith(("status", "end", "header ", "body"))


def _is_gone(answer: Answer) -> bool:
    return (answer.status, answer.end) == (0, "closed") or answer.end == "cut"


def is_left(seen: Seen, it: Difference) -> bool:
    """uvicorn and granian close a connection as soon as they read its client's end, and granian
    drops its request then now and then."""
    if seen.request.half_closes:
        is_ours = _is_gone(seen.ours) and seen.http != "hypercorn"
        return (is_ours or _is_gone(seen.bare)) and it.what in ("status", "end", "payloads")
    dropped = seen.http == "granian" and any(request.half_closes for request, _ in seen.before)
    return dropped and it.what == "payloads" and "how many" in seen.request.id


def is_read_first(seen: Seen, it: Difference) -> bool:
    if it.what == "interim":
        return it.ours == "[100]" and seen.bare.status >= 400
    if it.what in ("status", "end") and seen.bare.end in ("reset", "closed"):
        # A refusal on a connection that is closed upon unread bytes may be lost on its way.
        return seen.ours.status == 413
    if it.what in ("later head", "longer silence", "later end"):
        return seen.bare.status == seen.ours.status and len(seen.request.body()) > _CAP
    closing = it.what == "connection"
    return closing and seen.ours.kept and not seen.bare.kept and bool(seen.request.body())


def is_left_unread(seen: Seen, it: Difference) -> bool:
    """granian reads a refused body to its end, or closes upon what is left of it."""
    refused = seen.http == "granian" and 413 in (seen.bare.status, seen.ours.status)
    return refused and it.what in ("status", "end", "connection")


def is_early(seen: Seen, it: Difference) -> bool:
    """JSON that came late is the one event of a stream that began before it."""
    if not seen.ours.is_stream or seen.bare.is_stream or seen.bare.first < 1.0:
        return False
    told = [frame.data for frame in frames(seen.ours.body) if frame.data]
    same = len(told) == 1 and told[0] == seen.bare.body.decode()
    return same and len(seen.bare.body) < _LARGEST and it.what.startswith(("header ", "body"))


def without_question(answer: Answer) -> list[dict[str, object]]:
    told = [json.loads(f.data) for f in frames(answer.body) if f.data and f.data[0] == "{"]
    return [{k: v for k, v in it.items() if k != "id" or "method" not in it} for it in told]


def _does_not_cross(request: Request, ours: Answer) -> bool:
    """A body that is over the cap, or that breaks off; or its client is gone before it crosses."""
    gone = request.half_closes and ours.status in (0, 400, 500)
    return ours.status == 413 or gone


def is_not_relayed(seen: Seen, it: Difference) -> bool:
    if seen.state != "elsewhere":
        return False
    if seen.ours.status == 413 and len(seen.request.body()) > _CAP:
        return it.what in ("status", "end", "connection", "interim")
    if _does_not_cross(seen.request, seen.ours):
        return it.what.startswith(("status", "end", "header ", "body"))
    missed = any(_does_not_cross(*step) for step in seen.before)
    return missed and it.what == "payloads" and "how many" in seen.request.id


def is_head_elsewhere(seen: Seen, it: Difference) -> bool:
    early = seen.ours.first < max(seen.bare.first, seen.bare.silence) + slack()
    return seen.state == "elsewhere" and it.what == "later head" and streams(seen) and early


def is_comment_elsewhere(seen: Seen, it: Difference) -> bool:
    lost = seen.state == "elsewhere" and streams(seen)
    return lost and b"\n:" in b"\n" + seen.bare.body and it.what in ("comments", "longer silence")


def is_another_path(target: str) -> bool:
    return target.partition("?")[0] not in ("/mcp", "/mcp/")


def is_stale_reply(seen: Seen, it: Difference) -> bool:
    refused = seen.bare.status in (202, 400) and seen.ours.status == 409
    return refused and it.what == "status" and b"Not delivered" in seen.ours.body


def is_of_another(seen: Seen, it: Difference) -> bool:
    """Who is named asks for a session that was begun by nobody."""
    if _is_stranger(seen.request, seen.ours):
        return seen.state == "back" and it.what in ("status", "end", "connection")
    missed = seen.state == "back" and any(_is_stranger(*step) for step in seen.before)
    return missed and it.what == "payloads" and seen.request.tool == "tally"


def _is_stranger(request: Request, ours: Answer) -> bool:
    return ours.status == 404 and any(name in USERS for name, _ in request.headers)


_OF_THE_CALLER = (401, 403, 421, 429)


def is_refused_first(seen: Seen, it: Difference) -> bool:
    """Of two refusals, that of the caller and not that of the body."""
    refused = seen.bare.status == 413 and seen.ours.status in _OF_THE_CALLER
    asked = seen.state in ("back", "elsewhere")
    return asked and refused and it.what in ("status", "end", "connection", "interim")


def tells_of_tasks(seen: Seen, it: Difference) -> bool:
    """Ours says the same, and that there are tasks."""
    if it.what not in ("payloads", "body", "header content-length"):
        return False
    bare, ours = _messages(seen.bare), _messages(seen.ours)
    return bare != ours and bare == [_without_tasks(each) for each in ours]


def _messages(answer: Answer) -> list[Any]:
    texts = [f.data for f in frames(answer.body)] if answer.is_stream else [answer.body]
    try:
        return [json.loads(text) for text in texts if text]
    except ValueError:
        return []


def _without_tasks(message: Any) -> Any:
    match message:
        case {"result": {"capabilities": dict(told)}}:
            told.pop("tasks", None)
            if isinstance(more := told.get("extensions"), dict):
                more.pop("io.modelcontextprotocol/tasks", None)
                if not more:
                    del told["extensions"]
        case {"result": {"tools": list(tools)}}:
            for tool in tools:
                if tool.get("execution") == {"taskSupport": "optional"}:
                    del tool["execution"]
    return message


# What clients take as one event.
_LARGEST = 1 << 20
# `max_body_bytes`
_CAP = 4 << 20
