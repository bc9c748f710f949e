"""The servers that are measured: `python -m tests.benchmarks.apps NAME ROLE LOOP PARSER FD`.

This file runs in the interpreter of a competitor too, so it imports nothing of ours at the top.
Every event carries `time.monotonic_ns()` of its making: one clock for all processes of a machine.
"""

import asyncio
import ctypes
import gc
import json
import os
import socket
import sys
import time
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

import uvicorn

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

_idle_calls: list[asyncio.Event] = []


def _stats(*, settle: bool) -> bytes:
    """How many calls idle, how many sockets are open, and the resident memory; `settle` collects
    garbage and gives freed pages back first, so that the number means something.
    """
    if settle:
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    # `is_socket` follows the entry; the one that listed the directory is gone by now.
    sockets = sum(entry.is_socket() for entry in Path("/proc/self/fd").iterdir())
    return json.dumps({"rss": resident, "idle": len(_idle_calls), "sockets": sockets}).encode()


def _sdk_server() -> Any:
    """An official SDK server with the tools that the measures call."""
    from mcp.server.mcpserver import Context, MCPServer

    server = MCPServer("benchmark", log_level="WARNING")

    @server.tool()
    async def burst(ctx: Context, n: int) -> str:
        for i in range(n):
            await ctx.report_progress(i, n, str(time.monotonic_ns()))
        return "done"

    @server.tool()
    async def paced(ctx: Context, n: int, rate: float, phase: float = 0.0) -> str:
        begin = time.monotonic() + phase
        for i in range(n):
            await asyncio.sleep(max(0.0, begin + i / rate - time.monotonic()))
            await ctx.report_progress(i, n, str(time.monotonic_ns()))
        return "done"

    @server.tool()
    async def quick() -> str:
        return "done"

    @server.tool(structured_output=False)
    async def sized(kind: str) -> str:
        from tests.benchmarks import texts

        return texts.text(kind)

    @server.tool()
    async def idle(ctx: Context) -> str:
        await ctx.report_progress(0, 1, str(time.monotonic_ns()))
        _idle_calls.append(asyncio.Event())
        await _idle_calls[-1].wait()
        return "never"

    return server


def sdk() -> App:
    """The SDK's own application."""
    app: App = _sdk_server().streamable_http_app()
    return app


def answering_json() -> App:
    """The same, with answers as JSON."""
    app: App = _sdk_server().streamable_http_app(json_response=True)
    return app


def competitor() -> App:
    """The same server under mcp-persist, as its README shows."""
    from mcp_persist.fastmcp import (  # type: ignore[import-not-found,unused-ignore]
        with_persistence,
    )

    backend, url = os.environ["BENCHMARK_BACKEND"], os.environ["BENCHMARK_URL"]
    app: App = with_persistence(_sdk_server(), backend=backend, url=url, ttl=86_400)
    return app


_FRAME = (
    b'event: message\r\ndata: {"jsonrpc":"2.0","method":"notifications/progress","params":'
    b'{"progressToken":1,"progress":%d,"total":%d,"message":"%d"}}\r\n\r\n'
)
_RESULT = b'{"jsonrpc":"2.0","id":%s,"result":%s}'
_INITIALIZED = (
    b'{"protocolVersion":"2025-11-25","capabilities":{},"serverInfo":{"name":"raw","version":"1"}}'
)


async def _raw(scope: Message, receive: Receive, send: Send) -> None:
    """Streamable HTTP by hand: no SDK between the application and the measure."""
    if scope["type"] == "lifespan":
        await _lifespan(receive, send)
        return
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    call = json.loads(body)
    if "id" not in call:
        await _answer(send, 202, b"application/json", b"")
    elif call["method"] == "initialize":
        result = _RESULT % (json.dumps(call["id"]).encode(), _INITIALIZED)
        await _answer(send, 200, b"application/json", result)
    else:
        await _stream(send, json.dumps(call["id"]).encode(), call["params"]["arguments"]["n"])


async def _stream(send: Send, request_id: bytes, n: int) -> None:
    await _start(send, 200, b"text/event-stream")
    for i in range(n):
        frame = _FRAME % (i, n, time.monotonic_ns())
        await send({"type": "http.response.body", "body": frame, "more_body": True})
    result = _RESULT % (request_id, b'{"content":[],"isError":false}')
    body = b"event: message\r\ndata: " + result + b"\r\n\r\n"
    await send({"type": "http.response.body", "body": body, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        kind = (await receive())["type"]
        await send({"type": kind + ".complete"})
        if kind == "lifespan.shutdown":
            return


async def _start(send: Send, status: int, content_type: bytes) -> None:
    headers = [(b"content-type", content_type), (b"mcp-session-id", b"raw-session")]
    await send({"type": "http.response.start", "status": status, "headers": headers})


async def _answer(send: Send, status: int, content_type: bytes, body: bytes) -> None:
    await _start(send, status, content_type)
    await send({"type": "http.response.body", "body": body})


def raw() -> App:
    """The hand-written application."""
    return _raw


def _with_stats(app: App) -> App:
    async def serve(scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == "/stats":
            settle = scope["query_string"] == b"settle"
            await _answer(send, 200, b"application/json", _stats(settle=settle))
        else:
            await app(scope, receive, send)

    return serve


def _with_plain(app: App) -> App:
    """A route of the application itself that has nothing to do with MCP."""

    async def serve(scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == "/plain":
            await _answer(send, 200, b"text/plain", b"")
        else:
            await app(scope, receive, send)

    return serve


def _persisted(app: App) -> App:
    from mcp_persist_middleware import PersistMiddleware

    persisted: App = PersistMiddleware(app)
    return persisted


_APPS = {"sdk": sdk, "json": answering_json, "raw": raw}


def build(name: str, role: str) -> App:
    """The application a server runs; `/stats` is answered outside of everything measured."""
    app = _with_plain(competitor() if role == "peer" else _APPS[name]())
    return _with_stats(_persisted(app) if role == "ours" else app)


def main() -> None:
    name, role, loop, parser, descriptor = sys.argv[1:]
    config = uvicorn.Config(
        build(name, role),
        loop=loop,
        http=parser,
        log_level="warning",
        access_log=False,
        # Of many clients the first waits for the last.
        timeout_keep_alive=600,
    )
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=int(descriptor))])


if __name__ == "__main__":
    main()
