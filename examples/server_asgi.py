"""An ASGI application that speaks just enough MCP: no framework, no SDK, no lifespan.

$ pip install uvicorn
$ uvicorn examples.server_asgi:app
"""

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from typing import Any

from mcp_persist_middleware import PersistMiddleware

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
TOOL = {
    "name": "count",
    "description": "Report progress n times.",
    "inputSchema": {"type": "object", "properties": {"n": {"type": "integer"}}},
}
SERVER = {
    "protocolVersion": "2025-11-25",
    "capabilities": {"tools": {}},
    "serverInfo": {"name": "bare", "version": "1"},
}


async def bare(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Answer initialize, tools/list and tools/call; accept notifications."""
    if scope["type"] != "http":
        raise NotImplementedError(scope["type"])
    if scope["method"] != "POST":
        await answer(send, 405, b"")
        return
    message = json.loads(await body(receive))
    match message.get("method"):
        case "initialize":
            await answer(send, 200, result(message, SERVER), session=True)
        case "tools/list":
            await answer(send, 200, result(message, {"tools": [TOOL]}))
        case "tools/call":
            await count(message, send)
        case _ if "id" not in message:
            await answer(send, 202, b"")
        case _:
            error = {"code": -32601, "message": "Method not found"}
            reply = {"jsonrpc": "2.0", "id": message["id"], "error": error}
            await answer(send, 200, json.dumps(reply).encode())


async def count(message: dict[str, Any], send: Send) -> None:
    """A call that streams its progress."""
    n = message["params"]["arguments"]["n"]
    token = message["params"].get("_meta", {}).get("progressToken")
    head = [(b"content-type", b"text/event-stream")]
    await send({"type": "http.response.start", "status": 200, "headers": head})
    for i in range(1, n + 1):
        await asyncio.sleep(0.05)
        params = {"progressToken": token, "progress": i, "total": n}
        note = {"jsonrpc": "2.0", "method": "notifications/progress", "params": params}
        await event(send, json.dumps(note).encode())
    text = {"content": [{"type": "text", "text": f"counted {n}"}]}
    await event(send, result(message, text))
    await send({"type": "http.response.body", "body": b""})


async def event(send: Send, data: bytes) -> None:
    """One server-sent event."""
    frame = b"data: " + data + b"\n\n"
    await send({"type": "http.response.body", "body": frame, "more_body": True})


async def body(receive: Receive) -> bytes:
    """The whole request body."""
    parts, more = [], True
    while more:
        message = await receive()
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    return b"".join(parts)


def result(message: dict[str, Any], value: dict[str, Any]) -> bytes:
    """A JSON-RPC result."""
    return json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": value}).encode()


async def answer(send: Send, status: int, content: bytes, *, session: bool = False) -> None:
    """A plain JSON response."""
    head = [(b"content-type", b"application/json")]
    head += [(b"mcp-session-id", b"example-session")] if session else []
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": content})


app = PersistMiddleware(bare, url=os.environ.get("MCP_PERSIST_URL", "events.db"))
