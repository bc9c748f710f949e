"""The applications: `uvicorn --factory tests.peers.bare.apps:app`, in any environment.

`BARE_SERVER` is `raw`, `sdk1`, `sdk2` or `fastmcp`; `BARE_PERSIST` is the store's URL, and without
it the application is bare; `BARE_MODE` is `stateful` or `json`; with `BARE_LIFESPAN` the
middleware sees no lifespan, as in a mount. `MCP_PERSIST_*` are the settings.
"""

import asyncio
import importlib
import os
import weakref
from collections.abc import Awaitable, Callable
from typing import Any

App = Callable[..., Awaitable[None]]


def _tools(context: Any) -> list[Callable[..., Awaitable[str]]]:
    counts: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()

    async def tally(ctx: context) -> str:
        """How many calls of this tool the session has had."""
        key = getattr(ctx.session, "_connection", None) or ctx.session
        counts[key] = counts.get(key, 0) + 1
        return f"{counts[key]}"

    async def steps(n: int, delay: float, ctx: context) -> str:
        """Report n progress notifications, one every `delay` seconds."""
        for i in range(1, n + 1):
            await asyncio.sleep(delay)
            await ctx.report_progress(i, n, f"step {i}")
        return f"{n} steps"

    async def slow(seconds: float) -> str:
        """Answer after this many seconds."""
        await asyncio.sleep(seconds)
        return "slept"

    async def late(seconds: float, size: int) -> str:
        """Answer with this many bytes after this many seconds."""
        await asyncio.sleep(seconds)
        return "x" * size

    async def large(size: int) -> str:
        """Answer with this many bytes."""
        return "x" * size

    async def echo(text: str) -> str:
        """Answer with the argument."""
        return text

    async def length(text: str) -> str:
        """Answer with the argument's length."""
        return f"{len(text)}"

    async def fails() -> str:
        """Raise."""
        raise ValueError("as asked")

    return [tally, steps, slow, late, large, echo, length, fails]


async def _health(_: Any) -> Any:
    responses: Any = importlib.import_module("starlette.responses")
    return responses.PlainTextResponse("well")


def _register(server: Any, context: Any) -> Any:
    for tool in _tools(context):
        server.tool()(tool)
    server.custom_route("/health", methods=["GET"])(_health)
    return server


def _sdk2(*, json: bool) -> App:
    module: Any = importlib.import_module("mcp.server.mcpserver")
    server = _register(module.MCPServer("bare", log_level="ERROR"), module.Context)
    app: App = server.streamable_http_app(json_response=json)
    return app


def _sdk1(*, json: bool) -> App:
    module: Any = importlib.import_module("mcp.server.fastmcp")
    server = module.FastMCP("bare", log_level="ERROR", json_response=json)
    app: App = _register(server, module.Context).streamable_http_app()
    return app


def _fastmcp(*, json: bool) -> App:
    module: Any = importlib.import_module("fastmcp")
    app: App = _register(module.FastMCP("bare"), module.Context).http_app(json_response=json)
    return app


def _raw(*, json: bool) -> App:
    module: Any = importlib.import_module("tests.peers.bare.raw")
    app: App = module.Raw(json_mode=json)
    return app


SERVERS: dict[str, Callable[..., App]] = {
    "raw": _raw,
    "sdk1": _sdk1,
    "sdk2": _sdk2,
    "fastmcp": _fastmcp,
}


def bare(server: str, mode: str = "stateful") -> App:
    """One of the applications."""
    return SERVERS[server](json=mode == "json")


def app() -> App:
    """The application that the environment describes."""
    made = bare(os.environ["BARE_SERVER"], os.environ.get("BARE_MODE", "stateful"))
    if not (url := os.environ.get("BARE_PERSIST")):
        return made
    middleware: Any = importlib.import_module("mcp_persist_middleware").PersistMiddleware
    persisted: App = middleware(made, url=url)
    return _mounted(made, persisted) if os.environ.get("BARE_LIFESPAN") else persisted


def _mounted(bare: App, persisted: App) -> App:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        inner = bare if scope["type"] == "lifespan" else persisted
        await inner(scope, receive, send)

    return app
