"""A small MCP application whose tools the test holds in its hand, served by a real uvicorn on the
test's own event loop."""

import asyncio
import contextlib
import json
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import uvicorn

from mcp_persist_middleware import Persistence, PersistMiddleware

Message = dict[str, Any]
Send = Callable[[Message], Awaitable[None]]
Receive = Callable[[], Awaitable[Message]]


@dataclass(eq=False)
class Call:
    """One running tool call, from inside the application."""

    request: Message
    scope: Message
    _receive: Receive
    _send: Send
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    """The application has heard that its client left."""

    async def head(self, *more: tuple[bytes, bytes]) -> None:
        """Begin an event stream."""
        headers = [(b"content-type", b"text/event-stream"), *more]
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})

    async def progress(self, value: int, text: str = "") -> None:
        """Send one progress notification."""
        token = self.request.get("params", {}).get("_meta", {}).get("progressToken", "p")
        params = {"progressToken": token, "progress": value, "message": text}
        await self.emit({"method": "notifications/progress", "params": params})

    async def emit(self, message: Message) -> None:
        """Send one message."""
        data = json.dumps({"jsonrpc": "2.0", **message}).encode()
        frame = b"event: message\r\ndata: " + data + b"\r\n\r\n"
        await self._send({"type": "http.response.body", "body": frame, "more_body": True})

    async def say(self, text: str) -> None:
        """Send a comment."""
        body = f": {text}\r\n\r\n".encode()
        await self._send({"type": "http.response.body", "body": body, "more_body": True})

    async def result(self, text: str = "done") -> None:
        """Answer the request and end the stream."""
        content = {"content": [{"type": "text", "text": text}]}
        await self.emit({"id": self.request["id"], "result": content})
        await self.end()

    async def end(self) -> None:
        """End the stream."""
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def begin_json(self) -> None:
        """Begin a JSON answer."""
        headers = [(b"content-type", b"application/json")]
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})

    async def json(self, status: int, body: Any) -> None:
        """Answer with a JSON body."""
        headers = [(b"content-type", b"application/json")]
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": json.dumps(body).encode()})

    async def watch(self) -> None:
        """Wait until the client has gone, as the application is told."""
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.gone.set()


Tool = Callable[[Call], Awaitable[None]]


class Scripted:
    """Answers `initialize`, accepts notifications, and runs the test's tools by their name.

    `allow` decides about a request's headers; a refused one gets 401.
    """

    def __init__(self, **tools: Tool) -> None:
        self.tools = tools
        self.calls: list[Call] = []
        self.requests: list[Message] = []
        self.allow: Callable[[dict[str, str]], bool] = lambda _: True

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            raise NotImplementedError("no lifespan")
        self.requests.append(scope)
        headers = {k.decode(): v.decode("latin-1") for k, v in scope["headers"]}
        if not self.allow(headers):
            challenge = [(b"www-authenticate", b'Bearer realm="scripted"')]
            await send({"type": "http.response.start", "status": 401, "headers": challenge})
            await send({"type": "http.response.body", "body": b"who are you?"})
            return
        if scope["method"] == "GET" and "GET" in self.tools:
            await receive()
            self.calls.append(call := Call({}, scope, receive, send))
            await self.tools["GET"](call)
            return
        if scope["method"] != "POST":
            status = 200 if scope["method"] == "DELETE" else 405
            await send({"type": "http.response.start", "status": status, "headers": []})
            await send({"type": "http.response.body", "body": b""})
            return
        request = json.loads((await receive())["body"])
        await self._answer(Call(request, scope, receive, send))

    async def _answer(self, call: Call) -> None:
        method = call.request.get("method")
        if method == "initialize":
            await call.head((b"mcp-session-id", b"session-%d" % len(self.requests)))
            version = call.request["params"]["protocolVersion"]
            result = {"protocolVersion": version, "capabilities": {}, "serverInfo": {}}
            await call.emit({"id": call.request["id"], "result": result})
            await call.end()
        elif method == "tools/call":
            self.calls.append(call)
            await self.tools[call.request["params"]["name"]](call)
        else:
            await call.json(202, None)


@contextlib.asynccontextmanager
async def serving(app: Any) -> AsyncIterator[int]:
    """The application under uvicorn on this event loop; the port."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        http = os.environ.get("UVICORN_HTTP", "h11")
        config = uvicorn.Config(app, http=http, log_level="warning", timeout_graceful_shutdown=2)
        server = uvicorn.Server(config)
        server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]
        task = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            await until(lambda: server.started or task.done())
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            await asyncio.wait_for(task, 15)


@contextlib.asynccontextmanager
async def persisted(app: Any, url: str, **settings: Any) -> AsyncIterator[tuple[int, Persistence]]:
    """The application behind the middleware; the port, and the open persistence."""
    # A tool that the test still holds at the end is not waited for.
    persistence = Persistence(url=url, **{"drain_seconds": 0.1, **settings})
    async with serving(PersistMiddleware(app, persistence=persistence)) as port:
        yield port, persistence


async def until(true: Callable[[], Any], timeout: float = 20.0) -> None:
    """Wait for a condition that nothing announces.

    Raises:
        TimeoutError: it did not come true in time.
    """
    async with asyncio.timeout(timeout):
        while not true():
            await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def late() -> AsyncIterator[list[float]]:
    """By how many seconds each round of the event loop is late meanwhile."""
    rounds: list[float] = [0.0]

    async def watch() -> None:
        while True:
            began = time.monotonic()
            await asyncio.sleep(0.01)
            rounds.append(time.monotonic() - began - 0.01)

    watching = asyncio.create_task(watch())
    await asyncio.sleep(0)
    try:
        yield rounds
        await asyncio.sleep(0.02)
    finally:
        watching.cancel()
