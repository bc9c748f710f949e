"""JSON-RPC 2.0 as far as a log has to understand it: who asks, who answers."""

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mcp_persist_middleware.model import EventKind, RequestId

# What the SDKs write begins like this. Anything else is parsed in full.
_METHOD_FIRST = re.compile(rb'\s*\{\s*(?:"jsonrpc"\s*:\s*"2\.0"\s*,\s*)?"method"\s*:\s*"([^"\\]*)"')
_RESPONSE_FIRST = re.compile(
    rb'\s*\{\s*"jsonrpc"\s*:\s*"2\.0"\s*,\s*"id"\s*:\s*(-?(?:0|[1-9]\d{0,17})|"(?:[^"\\]|\\.){0,256}")\s*,'
    rb'\s*"(?:result|error)"\s*:'
)
_SPACE = re.compile(r"[ \t\n\r]*")
_TRACE = ("traceparent", "tracestate", "baggage")
_NOISE = frozenset({"notifications/progress", "notifications/message"})
_TO_A_CALL = frozenset({"notifications/progress", "notifications/cancelled"})

TASKS = "io.modelcontextprotocol/tasks"
"""The tasks extension of 2026-07-28 (SEP-2663)."""

INTERRUPTED = -32000
"""The code of every JSON-RPC error that this library writes in place of an answer."""


def key(request_id: RequestId) -> str:
    """A request id as text in which `1` and `"1"` differ, and equal numbers do not: some
    applications write `1.0` as `1`."""
    if type(request_id) is int:
        return str(request_id)
    if isinstance(request_id, float) and request_id.is_integer():
        return str(int(request_id))
    return json.dumps(request_id)


def _load(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def scan(data: bytes) -> tuple[EventKind, tuple[str, ...]]:
    """What a message of the server is, and the keys of the requests that it answers."""
    if match := _METHOD_FIRST.match(data):
        return _kind_of_method(match[1].decode("utf-8", "replace")), ()
    if match := _RESPONSE_FIRST.match(data):
        given = match[1]
        return EventKind.RESPONSE, (key(_load(given) if given.startswith(b'"') else int(given)),)
    loaded = _load(data)
    messages = loaded if isinstance(loaded, list) else [loaded]
    kinds, answered = [EventKind.MESSAGE if len(messages) > 1 else EventKind.NOISE], []
    for message in messages:
        match message:
            case {"method": str(method), **rest}:
                kinds.append(EventKind.REQUEST if "id" in rest else _kind_of_method(method))
            case {"id": request_id, "result": _} | {"id": request_id, "error": _}:
                kinds.append(EventKind.RESPONSE)
                answered.append(key(request_id))
            case _:
                kinds.append(EventKind.MESSAGE)
    return max(kinds), tuple(answered)


def _kind_of_method(method: str) -> EventKind:
    if method in _NOISE:
        return EventKind.NOISE
    return EventKind.MESSAGE if method.startswith("notifications/") else EventKind.REQUEST


@dataclass(frozen=True, slots=True)
class Call:
    """What a POST body asks for."""

    method: str
    name: str
    """The tool, prompt or resource that is meant, else an empty string."""
    request_ids: tuple[RequestId, ...]
    """The ids to answer; none for notifications and for answers of the client."""
    version: str | None
    """`params.protocolVersion` of an `initialize`."""
    knows_tasks: bool = False
    """Whether the client of a `tools/call` has said that it knows the tasks extension."""
    state: str = ""
    """`params.requestState`: the state of a question of the server's that it answers."""
    trace: Mapping[str, str] | None = None
    """The trace context in `params._meta` (SEP-414), as it is there."""

    @property
    def is_initialize(self) -> bool:
        return self.method == "initialize" and self.version is not None

    @property
    def request_id(self) -> RequestId:
        """The one id to answer, or None when there are more or none."""
        return self.request_ids[0] if len(self.request_ids) == 1 else None


def parse(body: bytes) -> Call | None:
    """The call in a POST body; None when it is not JSON-RPC 2.0."""
    loaded = _load(body)
    messages = loaded if isinstance(loaded, list) else [loaded]
    if not messages or any(
        not isinstance(message, dict) or message.get("jsonrpc") != "2.0" for message in messages
    ):
        return None
    ids = [m["id"] for m in messages if isinstance(m.get("method"), str) and "id" in m]
    if any(isinstance(i, (dict, list)) for i in ids):
        return None
    first = messages[0]
    params = _params(first)
    version, name = params.get("protocolVersion"), params.get("name") or params.get("uri")
    state = params.get("requestState")
    meta = params.get("_meta")
    return Call(
        method=method if isinstance(method := first.get("method"), str) else "",
        name=name if isinstance(name, str) else "",
        request_ids=tuple(ids),
        version=version if isinstance(version, str) else None,
        knows_tasks=first.get("method") == "tools/call" and knows_tasks(params),
        state=state if isinstance(state, str) else "",
        trace=_trace(meta) if meta else None,
    )


def params(body: bytes) -> dict[str, Any]:
    """The parameters of a call that was parsed; none where it has no object of them."""
    return _params(json.loads(body))


def _params(message: Mapping[str, Any]) -> dict[str, Any]:
    found = message.get("params")
    return found if isinstance(found, dict) else {}


def _trace(meta: Any) -> Mapping[str, str] | None:
    if not isinstance(meta, dict) or not isinstance(meta.get("traceparent"), str):
        return None
    return {key: value for key in _TRACE if isinstance(value := meta.get(key), str)}


def knows_tasks(params: Any) -> bool:
    """Whether a request of 2026-07-28 says that its client knows the tasks extension."""
    match params:
        case {"_meta": {"io.modelcontextprotocol/clientCapabilities": {"extensions": dict(known)}}}:
            return TASKS in known
        case _:
            return False


def is_to_a_call(body: bytes) -> bool:
    """Whether all of it belongs to what runs already: answers to questions of the server, progress
    of those, cancellations."""
    loaded = _load(body)
    messages = loaded if isinstance(loaded, list) else [loaded]
    return bool(messages) and all(_is_to_a_call(message) for message in messages)


def _is_to_a_call(message: Any) -> bool:
    match message:
        case {"method": method}:
            return method in _TO_A_CALL and "id" not in message
        case {"id": _, "result": _} | {"id": _, "error": _}:
            return True
        case _:
            return False


def error(request_id: RequestId, message: str, data: dict[str, Any], code: int) -> bytes:
    """A JSON-RPC error response. An id that is no number in JSON (`1e400`) is nobody's."""
    if isinstance(request_id, float) and not math.isfinite(request_id):
        request_id = None
    body = {"code": code, "message": message, "data": data}
    return json.dumps(
        {"jsonrpc": "2.0", "id": request_id, "error": body}, separators=(",", ":")
    ).encode()


def member(message: bytes, name: str) -> bytes | None:
    """A member of an object as it is written; None when it has none of that name."""
    text = message.decode("utf-8", "surrogatepass")
    decode, found = json.JSONDecoder().raw_decode, None
    try:
        at = _behind(text, text.index("{") + 1)
        while text[at] != "}":
            key, at = decode(text, at)
            begin = _behind(text, _behind(text, at) + 1)
            _, end = decode(text, begin)
            # Of two of a name the last one counts.
            found = text[begin:end] if key == name else found
            at = _behind(text, end)
            at = _behind(text, at + 1) if text[at] == "," else at
    except (ValueError, IndexError, RecursionError):
        return None
    return None if found is None else found.encode("utf-8", "surrogatepass")


def _behind(text: str, at: int) -> int:
    """Where the space at a place ends."""
    match = _SPACE.match(text, at)
    return match.end() if match is not None else at


def pending(request_ids: Iterable[RequestId]) -> set[str]:
    """The keys of requests that wait for their answer."""
    return {key(request_id) for request_id in request_ids}
