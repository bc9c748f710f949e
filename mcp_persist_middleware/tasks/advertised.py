"""Who has tasks: an application that says so itself is left alone, of another one we say it."""

import json
import secrets
from typing import Any

from starlette.types import ASGIApp, Scope

from mcp_persist_middleware import asgi
from mcp_persist_middleware.asgi import place_of
from mcp_persist_middleware.protocol import headers, jsonrpc, sse
from mcp_persist_middleware.streams.memory import Memory
from mcp_persist_middleware.tasks.changing import Changing

DISCOVER = "server/discover"
_META = "io.modelcontextprotocol/"


async def has_own_tasks(memory: Memory, app: ASGIApp, scope: Scope, version: str) -> bool:
    """Whether the application has tasks itself: it is asked once, in the name of a caller."""
    place = place_of(scope)
    known = memory.own_tasks.get(place)
    if known is None:
        found = await _discovered(app, scope, version)
        known = found is not None and _has_tasks(found)
        if found is not None:
            memory.own_tasks[place] = known
    return known


async def _discovered(app: ASGIApp, scope: Scope, version: str) -> Any:
    """What the application says of itself; None where it does not say it to this caller."""
    left_out = headers.MCP_METHOD, headers.MCP_NAME
    asked = asgi.question(scope, "POST", without=left_out)
    asked["headers"].append((headers.MCP_METHOD, DISCOVER.encode()))
    meta = {f"{_META}protocolVersion": version, f"{_META}clientCapabilities": {}}
    request_id = f"probe-{secrets.token_hex(8)}"
    params = {"_meta": meta}
    message = {"jsonrpc": "2.0", "id": request_id, "method": DISCOVER, "params": params}
    body = json.dumps(message, separators=(",", ":")).encode()
    answer = await asgi.ask(app, asked, body, until=lambda said: request_id.encode() in said)
    if answer.status in asgi.REFUSALS or answer.status >= 500:
        return None
    said = answer.body
    if headers.is_event_stream(answer.status, answer.headers):
        frames = sse.FrameParser(len(said) + 4).feed(said)
        said = frames[-1].data if frames else b""
    # One that does not know the question has no tasks either.
    return _loaded(said) or {}


def _loaded(said: bytes) -> Any:
    try:
        return json.loads(said)
    except (ValueError, RecursionError):
        return None


def _has_tasks(discovered: Any) -> bool:
    match discovered:
        case {"result": {"capabilities": {"extensions": dict(extensions)}}}:
            return jsonrpc.TASKS in extensions
        case _:
            return False


def advertising(app: ASGIApp, memory: Memory, scope: Scope) -> ASGIApp:
    """The application, whose answer to `server/discover` says that there are tasks."""

    def advertise(discovered: Any) -> bool:
        match discovered:
            case {"result": {"capabilities": dict(capabilities)}}:
                has_tasks = memory.own_tasks[place_of(scope)] = _has_tasks(discovered)
                extensions = capabilities.get("extensions") or {}
                if has_tasks or not isinstance(extensions, dict):
                    return False
                capabilities["extensions"] = {**extensions, jsonrpc.TASKS: {}}
                return True
            case _:
                return False

    return Changing(app, advertise)
