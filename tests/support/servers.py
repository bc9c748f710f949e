"""The MCP servers of the tests, run by `ServerProcess` in any of the test environments.

`uvicorn --factory tests.support.servers:app`, configured by the environment:
`TEST_SERVER` is `sdk` (1.x or 2.x, whichever is installed) or `fastmcp`; `TEST_MODE` is
`stateful`, `json` or `stateless`; `TEST_PERSIST` names a store, and without it the app is bare.
`MCP_PERSIST_*` are the settings of the middleware. Endpoint: `/mcp`.
"""

import asyncio
import importlib
import os
import sys
from collections.abc import Awaitable, Callable
from typing import Any

Tool = Callable[..., Awaitable[str]]
App = Callable[..., Awaitable[None]]


def _note(text: str) -> None:
    """Tests read from the server's log what became of a tool."""
    print(f"tool {text}", file=sys.stderr, flush=True)


def _tools(context: Any) -> list[Tool]:
    async def count(n: int, delay: float, ctx: context) -> str:
        """Report n progress notifications, one every `delay` seconds."""
        _note(f"count {n} started")
        try:
            for i in range(1, n + 1):
                if delay:
                    await asyncio.sleep(delay)
                await ctx.report_progress(i, n, f"step {i} of {n}")
        except asyncio.CancelledError:
            _note(f"count {n} cancelled")
            raise
        _note(f"count {n} finished")
        return f"counted {n}"

    async def slow(seconds: float) -> str:
        """Answer after this many seconds."""
        _note(f"slow {seconds} started")
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            _note(f"slow {seconds} cancelled")
            raise
        _note(f"slow {seconds} finished")
        return f"slept {seconds}"

    async def echo(text: str) -> str:
        """Answer with the argument."""
        return text

    async def big(size: int) -> str:
        """Answer with this many bytes."""
        return "x" * size

    return [count, slow, echo, big]


def _register(server: Any, context: Any) -> Any:
    for tool in _tools(context):
        server.tool()(tool)
    return server


def _sdk2(json: bool, stateless: bool) -> App:
    module: Any = importlib.import_module("mcp.server.mcpserver")
    server = _register(module.MCPServer("tests", log_level="WARNING"), module.Context)
    app: App = server.streamable_http_app(json_response=json, stateless_http=stateless)
    return app


def _sdk1(json: bool, stateless: bool) -> App:
    module: Any = importlib.import_module("mcp.server.fastmcp")
    server = module.FastMCP(
        "tests", log_level="WARNING", json_response=json, stateless_http=stateless
    )
    app: App = _register(server, module.Context).streamable_http_app()
    return app


def _fastmcp(json: bool, stateless: bool) -> App:
    module: Any = importlib.import_module("fastmcp")
    server = _register(module.FastMCP("tests"), module.Context)
    app: App = server.http_app(json_response=json, stateless_http=stateless)
    return app


def _sdk(json: bool, stateless: bool) -> App:
    try:
        importlib.import_module("mcp.server.mcpserver")
    except ModuleNotFoundError:
        return _sdk1(json, stateless)
    return _sdk2(json, stateless)


def app() -> App:
    """The application that the environment describes."""
    mode = os.environ.get("TEST_MODE", "stateful")
    build = {"sdk": _sdk, "fastmcp": _fastmcp}[os.environ.get("TEST_SERVER", "sdk")]
    bare = build(mode == "json", mode == "stateless")
    if not (url := os.environ.get("TEST_PERSIST")):
        return bare
    middleware: Any = importlib.import_module("mcp_persist_middleware").PersistMiddleware
    persisted: App = middleware(bare, url=url)
    return persisted
