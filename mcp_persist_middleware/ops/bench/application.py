"""The smallest MCP application with an answer in it, and its client: a call of either is a call of
a function, so that what is measured is what is between them."""

import asyncio
import itertools
import json
import time
from collections.abc import Callable
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mcp_persist_middleware.protocol import headers, sse

PATH = "/mcp"
VERSION = "2025-11-25"
_SECONDS = 30.0
_RESULT = {"content": [{"type": "text", "text": "done"}], "isError": False}

OnPart = Callable[[bytes], None]
"""Is told each part of an event stream, as it comes."""


class BenchApplication:
    """Two tools: `quick` answers at once; `paced` sends `n` events, `rate` a second, each with the
    time of its making (`time.monotonic`)."""

    def __init__(self) -> None:
        self._sessions = itertools.count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise NotImplementedError("no lifespan")
        if scope["method"] != "POST":
            await _answer(send, 405 if scope["method"] == "GET" else 200)
            return
        request = json.loads((await receive())["body"])
        match request:
            case {"method": "initialize", "id": request_id}:
                server = {"name": "bench", "version": "1"}
                result = {"protocolVersion": VERSION, "capabilities": {}, "serverInfo": server}
                session = (headers.SESSION_ID, b"bench-%d" % next(self._sessions))
                body = json.dumps({"jsonrpc": "2.0", "id": request_id, "result": result})
                await _answer(send, 200, body.encode(), session)
            case {"method": "tools/call", "id": _}:
                await _call(request, send)
            case _:
                await _answer(send, 202)


async def _call(request: Any, send: Send) -> None:
    stream = [(b"content-type", headers.EVENT_STREAM)]
    await send({"type": "http.response.start", "status": 200, "headers": stream})
    given = request["params"]["arguments"]
    begin = time.monotonic()
    for number in range(given.get("n", 0)):
        await asyncio.sleep(max(0.0, begin + number / given["rate"] - time.monotonic()))
        params = {"progressToken": 1, "progress": number, "message": repr(time.monotonic())}
        await _say(send, {"method": "notifications/progress", "params": params})
    await _say(send, {"id": request["id"], "result": _RESULT})
    await send({"type": "http.response.body", "body": b""})


async def _say(send: Send, message: dict[str, Any]) -> None:
    frame = sse.event(json.dumps({"jsonrpc": "2.0", **message}).encode()) + sse.CRLF
    await send({"type": "http.response.body", "body": frame, "more_body": True})


async def _answer(send: Send, status: int, body: bytes = b"", *more: tuple[bytes, bytes]) -> None:
    raw = [(b"content-type", b"application/json"), *more]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})


class BenchClient:
    """One session with an application."""

    def __init__(self, app: ASGIApp, session: bytes = b"") -> None:
        self._app = app
        self.session = session
        self._ids = itertools.count(1)

    async def open(self) -> None:
        """Begin the session."""
        client = {"name": "bench", "version": "1"}
        params = {"protocolVersion": VERSION, "capabilities": {}, "clientInfo": client}
        answer = await self._exchange("POST", self._request("initialize", params))
        self.session = (headers.get(answer.headers, headers.SESSION_ID) or "").encode()
        await self._exchange("POST", {"jsonrpc": "2.0", "method": "notifications/initialized"})

    async def call(self, heard: OnPart | None = None, /, **arguments: object) -> None:
        """Call a tool, and wait for its answer.

        Raises:
            RuntimeError: it is an error.
        """
        params = {"name": "tool", "arguments": arguments}
        answer = await self._exchange("POST", self._request("tools/call", params), heard=heard)
        if b'"result"' not in answer.last:
            raise RuntimeError("a call was answered with an error")

    async def resume(self, event_id: bytes, heard: OnPart) -> None:
        """Read a stream behind an event, to its end."""
        await self._exchange("GET", None, (headers.LAST_EVENT_ID, event_id), heard=heard)

    def _request(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        return {"jsonrpc": "2.0", "id": next(self._ids), "method": method, "params": params}

    async def _exchange(
        self,
        method: str,
        message: dict[str, Any] | None,
        *more: tuple[bytes, bytes],
        heard: OnPart | None = None,
    ) -> "_ClientSide":
        raw = [
            (b"accept", b"application/json, text/event-stream"),
            (b"content-type", b"application/json"),
            (headers.PROTOCOL_VERSION, VERSION.encode()),
            *more,
        ]
        if self.session:
            raw.append((headers.SESSION_ID, self.session))
        scope = {**_SCOPE, "method": method, "headers": raw}
        answer = _ClientSide(b"" if message is None else json.dumps(message).encode(), heard)
        async with asyncio.timeout(_SECONDS):
            await self._app(scope, answer.receive, answer.send)
        if not 200 <= answer.status < 300:
            raise RuntimeError(f"{method} was answered with {answer.status}")
        return answer


_SCOPE: Scope = {
    "type": "http",
    "asgi": {"version": "3.0"},
    "http_version": "1.1",
    "scheme": "http",
    "path": PATH,
    "raw_path": PATH.encode(),
    "root_path": "",
    "query_string": b"",
    "client": ("127.0.0.1", 50000),
    "server": ("127.0.0.1", 8000),
}


class _ClientSide:
    """The client's side of one request."""

    def __init__(self, body: bytes, heard: OnPart | None) -> None:
        self._body: bytes | None = body
        self._heard = heard
        self._ended = asyncio.Event()
        self.status = 0
        self.last = b""
        """The last part of the body."""
        self.headers: headers.RawHeaders = []

    async def receive(self) -> Message:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._ended.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], message["headers"]
            return
        if body := message.get("body"):
            self.last = body
            if self._heard is not None:
                self._heard(body)
        if not message.get("more_body", False):
            self._ended.set()
