"""A server by hand that costs next to nothing, for what is measured in front of it:
`uvicorn --factory tests.proxied.apps:app`.

Tools: `burst` sends `n` progress events at once, `paced` so many with `rate` a second, and
`quick` answers at once. Every event carries the time of its making.
"""

import asyncio
import json
import time
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_FRAME = (
    b'event: message\r\ndata: {"jsonrpc":"2.0","method":"notifications/progress","params":'
    b'{"progressToken":1,"progress":%d,"total":%d,"message":"%d"}}\r\n\r\n'
)
_RESULT = b'{"jsonrpc":"2.0","id":%s,"result":%s}'
_INITIALIZED = (
    b'{"protocolVersion":"2025-11-25","capabilities":{},"serverInfo":{"name":"raw","version":"1"}}'
)
_DONE = b'{"content":[],"isError":false}'


def app() -> Callable[[Message, Receive, Send], Awaitable[None]]:
    """The application."""
    return _serve


async def _serve(scope: Message, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        while (kind := (await receive())["type"]) != "lifespan.shutdown":
            await send({"type": f"{kind}.complete"})
        await send({"type": f"{kind}.complete"})
        return
    if scope["method"] != "POST":
        await _answer(send, 405, b"")
        return
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    call = json.loads(body)
    if "id" not in call:
        await _answer(send, 202, b"")
    elif call["method"] == "initialize":
        result = _RESULT % (json.dumps(call["id"]).encode(), _INITIALIZED)
        await _answer(send, 200, result, (b"mcp-session-id", uuid.uuid4().hex.encode()))
    else:
        await _call(call, send)


async def _call(call: dict[str, Any], send: Send) -> None:
    head = [(b"content-type", b"text/event-stream")]
    await send({"type": "http.response.start", "status": 200, "headers": head})

    async def emit(frame: bytes) -> None:
        await send({"type": "http.response.body", "body": frame, "more_body": True})

    given = call["params"]["arguments"]
    n, rate = given.get("n", 0), given.get("rate", 0.0)
    begin = time.monotonic()
    for i in range(n):
        if rate:
            await asyncio.sleep(max(0.0, begin + i / rate - time.monotonic()))
        await emit(_FRAME % (i, n, time.monotonic_ns()))
    result = _RESULT % (json.dumps(call["id"]).encode(), _DONE)
    await emit(b"event: message\r\ndata: " + result + b"\r\n\r\n")
    await send({"type": "http.response.body", "body": b""})


async def _answer(send: Send, status: int, body: bytes, *more: tuple[bytes, bytes]) -> None:
    head = [(b"content-type", b"application/json"), *more]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body})
