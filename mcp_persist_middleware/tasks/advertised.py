"""Who has tasks: an application that says so itself is left alone, of another one we say it."""

import json
import secrets
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mcp_persist_middleware import asgi
from mcp_persist_middleware.asgi import place_of
from mcp_persist_middleware.protocol import headers, jsonrpc, sse
from mcp_persist_middleware.streams.memory import Memory

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


class Advertising:
    """The application, whose answer to `server/discover` says that there are tasks."""

    def __init__(self, app: ASGIApp, memory: Memory) -> None:
        self._app = app
        self._memory = memory

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, _Answer(self._memory, scope, send).send)


class _Answer:
    """Changes the one message of an answer, as JSON or as an event; one that is too large, or is
    none of these, passes as it is."""

    def __init__(self, memory: Memory, scope: Scope, send: Send) -> None:
        self._memory = memory
        self._place = place_of(scope)
        self._send = send
        self._head: Message | None = None
        self._is_stream = False
        self._body = bytearray()

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start" and _is_readable(message):
            self._head, raw = message, message.get("headers", [])
            self._is_stream = headers.is_event_stream(message["status"], raw)
        elif self._head is None:
            await self._send(message)
        else:
            self._body += message.get("body", b"")
            more = message.get("more_body", False)
            if not more or len(self._body) > asgi.MAX_ANSWER:
                await self._pass_on(more=more)

    async def _pass_on(self, *, more: bool) -> None:
        head, body = self._head, bytes(self._body)
        assert head is not None
        if not more:
            body = self._events(body) if self._is_stream else self._changed(body)
        self._head, self._body = None, bytearray()
        raw = headers.without(head.get("headers", []), b"content-length")
        if not (self._is_stream or more):
            raw.append((b"content-length", b"%d" % len(body)))
        await self._send({**head, "headers": raw})
        await self._send({"type": "http.response.body", "body": body, "more_body": more})

    def _events(self, body: bytes) -> bytes:
        frames = sse.FrameParser(len(body) + 4).feed(body)
        changed = [(frame, self._changed(frame.data)) for frame in frames]
        if all(frame.data == data for frame, data in changed):
            return body
        return b"".join(sse.event(data) + sse.CRLF for _, data in changed)

    def _changed(self, said: bytes) -> bytes:
        loaded = _loaded(said)
        match loaded:
            case {"result": {"capabilities": dict(capabilities)}}:
                has_tasks = self._memory.own_tasks[self._place] = _has_tasks(loaded)
                extensions = capabilities.get("extensions") or {}
                if has_tasks or not isinstance(extensions, dict):
                    return said
                capabilities["extensions"] = {**extensions, jsonrpc.TASKS: {}}
                return json.dumps(loaded, ensure_ascii=False, separators=(",", ":")).encode(
                    "utf-8", "surrogatepass"
                )
            case _:
                return said


def _is_readable(head: Message) -> bool:
    raw = head.get("headers", [])
    is_json = headers.media_type(raw) == b"application/json"
    is_plain = headers.get(raw, b"content-encoding") in (None, "identity")
    is_ok: bool = head["status"] == 200
    return is_ok and is_plain and (is_json or headers.is_event_stream(200, raw))
