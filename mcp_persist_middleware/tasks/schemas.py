"""Which tools promise a structure of their results: in the place of that nothing else may stand.

The application is asked for its tools once in a while, and only when somebody wants to know.
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


async def has_output_schema(
    memory: Memory, app: ASGIApp, scope: Scope, version: str | None, tool: str
) -> bool | None:
    """Whether a tool has one; None where the application does not say it to this caller.

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


async def _structured(app: ASGIApp, scope: Scope, version: str | None) -> frozenset[str] | None:
    """The tools that have one."""
    found = set[str]()
    cursor: object = None
    for _ in range(_MOST_PAGES):
        match await _page(app, scope, version, cursor):
            case {"result": {"tools": list(tools), **rest}}:
                named = (each for each in tools if isinstance(each, dict))
                found |= {str(each.get("name")) for each in named if each.get("outputSchema")}
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
