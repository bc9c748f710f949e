"""An MCP server as people deploy it: `uvicorn --factory tests.peers.deployed_app:app`.

`DEPLOYED` names what is around it, in any combination: `mount` (FastAPI, at `/mcp`, so that `/mcp`
redirects to `/mcp/`; without it the SDK's own application, where `/mcp/` redirects to `/mcp`),
`cookie` (a balancer in front sets another cookie with each answer), `signed` (a session of the site
in a signed cookie, as Starlette's SessionMiddleware sets it: another one with each answer), `key`
(401 without `?key=ann`), `404` (a call of an unknown tool is answered 404). `DEPLOYED_URL` is the
store; without it the application is bare.
"""

import asyncio
import contextlib
import itertools
import json
import os
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI
from mcp.server.mcpserver import Context, MCPServer
from starlette.responses import Response

from mcp_persist_middleware import PersistMiddleware

_TOOLS = ("count", "tally")


def _server() -> MCPServer:
    server = MCPServer("deployed", log_level="ERROR")
    calls = itertools.count(1)

    @server.tool()
    async def count(n: int, delay: float, ctx: Context) -> str:
        """Report n progress notifications, one every `delay` seconds."""
        for i in range(1, n + 1):
            await asyncio.sleep(delay)
            await ctx.report_progress(i, n)
        return f"counted {n}"

    @server.tool()
    async def tally() -> str:
        """How many calls of it this process has had."""
        return f"{next(calls)}"

    return server


class Unknown:
    """Answers 404 to a call of a tool that nobody knows."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        asked = json.loads(body)
        if asked.get("method") == "tools/call" and asked["params"]["name"] not in _TOOLS:
            await _refuse(asked["id"], send)
            return
        given = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def replay() -> Any:
            return next(given, None) or await receive()

        await self._app(scope, replay, send)


async def _refuse(number: Any, send: Any) -> None:
    error = {"code": -32601, "message": "Unknown tool"}
    body = json.dumps({"jsonrpc": "2.0", "id": number, "error": error}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 404, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class Key:
    """Asks for an API key in the query."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["query_string"] != b"key=ann":
            await Response(status_code=401)(scope, receive, send)
        else:
            await self._app(scope, receive, send)


class Stamp:
    """Sets a cookie, another one with each answer."""

    def __init__(self, app: Any, cookie: bytes) -> None:
        self._app, self._cookie, self._numbers = app, cookie, itertools.count(1)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def stamped(message: Any) -> None:
            if message["type"] == "http.response.start":
                cookie = self._cookie % (os.getpid(), next(self._numbers))
                message["headers"] = [*message.get("headers", []), (b"set-cookie", cookie)]
            await send(message)

        await self._app(scope, receive, stamped if scope["type"] == "http" else send)


def _mounted(server: MCPServer, wrap: Any) -> FastAPI:
    inner = server.streamable_http_app(streamable_http_path="/")

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with inner.router.lifespan_context(inner):
            yield

    outer = FastAPI(lifespan=lifespan)
    outer.mount("/mcp", wrap(inner))
    return outer


def app() -> Any:
    """The application that the environment describes."""
    around, url = os.environ.get("DEPLOYED", ""), os.environ.get("DEPLOYED_URL")
    server = _server()

    def wrap(inner: Any) -> Any:
        inner = Unknown(inner) if "404" in around else inner
        return Key(inner) if "key" in around else inner

    made: Any
    if "mount" in around:
        made = _mounted(server, wrap)
        if url:
            made.add_middleware(PersistMiddleware, url=url)
    else:
        made = wrap(server.streamable_http_app())
        made = PersistMiddleware(made, url=url) if url else made
    if "signed" in around:
        made = Stamp(made, b"session=eyJ2IjoxfQ==.%d.%d; path=/; httponly; samesite=lax")
    return Stamp(made, b"AWSALB=%d.%d; Path=/") if "cookie" in around else made
