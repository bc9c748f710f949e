"""Which tools promise a structure of their results that a sentence in its place would break.

Many promise an object with a text in it, because the SDKs make that of a tool that returns one: a
sentence of ours can stand there. The application is asked for its tools once in a while, and only
when somebody wants to know.
"""

import json
import secrets
import time
from typing import Any

from starlette.types import ASGIApp, Scope

from mcp_persist_middleware import asgi
from mcp_persist_middleware.asgi import place_of
from mcp_persist_middleware.protocol import headers, sse
from mcp_persist_middleware.streams.memory import Memory

_LIST = "tools/list"
_META = "io.modelcontextprotocol/"
_SECONDS = 300.0
_MOST_PAGES = 50
# What the SDKs wrap a text in.
RESULT = "result"
_OF_ANY_TEXT = frozenset({"type", "title", "description", "default", "examples"})


async def promises_more(
    memory: Memory, app: ASGIApp, scope: Scope, version: str | None, tool: str
) -> bool | None:
    """Whether a tool has an output schema that a text does not fulfil; None where the application
    does not say it to this caller.

    Args:
        version: of a revision without sessions, where each request says it.
    """
    place, now = place_of(scope), time.monotonic()
    known, until = memory.structured.get(place, (frozenset(), 0.0))
    if tool in known:
        return True
    if now < until:
        return False
    found = await _structured(app, scope, version)
    if found is None:
        return None
    memory.structured[place] = found, now + _SECONDS
    return tool in found


def takes_text(schema: Any) -> bool:
    """Whether any text is right as the `result` of an object with this schema."""
    match schema:
        case {"type": "object", "properties": {"result": of_result, **others}}:
            is_alone = not others and set(schema.get("required") or ()) <= {RESULT}
            is_plain = not schema.keys() & {"allOf", "anyOf", "oneOf", "not", "if", "$ref"}
            return is_alone and is_plain and _is_text(of_result)
        case _:
            return False


def _is_text(schema: Any) -> bool:
    match schema:
        case {"type": "string", **more}:
            return more.keys() <= _OF_ANY_TEXT
        case {"anyOf": list(each), **more}:
            return more.keys() <= _OF_ANY_TEXT and any(map(_is_text, each))
        case _:
            return False


async def _structured(app: ASGIApp, scope: Scope, version: str | None) -> frozenset[str] | None:
    """The tools that have such a schema."""
    found = set[str]()
    cursor: object = None
    for _ in range(_MOST_PAGES):
        match await _page(app, scope, version, cursor):
            case {"result": {"tools": list(tools), **rest}}:
                named = (each for each in tools if isinstance(each, dict))
                found |= {
                    str(each.get("name"))
                    for each in named
                    if (schema := each.get("outputSchema")) and not takes_text(schema)
                }
                cursor = rest.get("nextCursor")
            case _:
                return None
        if not isinstance(cursor, str):
            return frozenset(found)
    return None


async def _page(app: ASGIApp, scope: Scope, version: str | None, cursor: object) -> Any:
    asked = asgi.question(scope, "POST", without=(headers.MCP_METHOD, headers.MCP_NAME))
    params: dict[str, Any] = {"cursor": cursor} if cursor is not None else {}
    if version is not None:
        asked["headers"].append((headers.MCP_METHOD, _LIST.encode()))
        told = {f"{_META}protocolVersion": version, f"{_META}clientCapabilities": {}}
        params["_meta"] = told
    request_id = f"probe-{secrets.token_hex(8)}"
    message = {"jsonrpc": "2.0", "id": request_id, "method": _LIST, "params": params}
    body = json.dumps(message, separators=(",", ":")).encode()
    # It is whole when the event is: the id may come first in it.
    answer = await asgi.ask(app, asked, body, until=lambda said: _message(said, request_id) != b"")
    said = answer.body
    if headers.is_event_stream(answer.status, answer.headers):
        said = _message(said, request_id)
    try:
        return json.loads(said) if answer.status == 200 else None
    except (ValueError, RecursionError):
        return None


def _message(said: bytes, request_id: str) -> bytes:
    """The response to a request among the events of a stream; empty while it is not there."""
    if request_id.encode() not in said:
        return b""
    frames = sse.FrameParser(len(said) + 4).feed(said)
    return next((each.data for each in frames if request_id.encode() in each.data), b"")
