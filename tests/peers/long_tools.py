"""The conformance suite's tools that take long, in a plain server that has never heard of tasks.

`uvicorn --factory tests.peers.long_tools:app`; with `PEER_DATABASE` it stands behind the
middleware, which gives it tasks. Names and texts are the suite's.
"""

import asyncio
import os
from typing import Any

from mcp import types
from mcp.server.mcpserver import Context, MCPServer, RequestStateSecurity
from mcp.shared.exceptions import MCPError

from tests.peers.everything import App
from tests.peers.multi_round import FOR_THE_SUITE, ask

# What is answered sooner stays a call; the suite's tools sleep for a second where they sleep.
TASKS_AFTER = 0.2
_LONG = 0.5

Answer = str | types.InputRequiredResult


def _field(ctx: Context, key: str, name: str) -> Any:
    given = (ctx.input_responses or {}).get(key)
    return (given.content or {}).get(name) if isinstance(given, types.ElicitResult) else None


def _plain(server: MCPServer) -> None:
    @server.tool(description=FOR_THE_SUITE)
    async def greet(name: str) -> str:
        return f"Hello, {name}!"

    @server.tool(description=FOR_THE_SUITE)
    async def slow_compute(seconds: float, label: str = "", *, ctx: Context) -> str:
        await ctx.report_progress(0, seconds, f"computing {label}")
        await asyncio.sleep(seconds)
        return f"{label} took {seconds:g} s"

    @server.tool(description=FOR_THE_SUITE)
    async def failing_job() -> str:
        await asyncio.sleep(_LONG)
        raise RuntimeError("This job fails")

    @server.tool(description=FOR_THE_SUITE)
    async def protocol_error_job() -> str:
        await asyncio.sleep(_LONG)
        raise MCPError(code=types.INTERNAL_ERROR, message="This job breaks the protocol")


def _asking(server: MCPServer) -> None:
    @server.tool(description=FOR_THE_SUITE)
    async def confirm_delete(filename: str, ctx: Context) -> Answer:
        await asyncio.sleep(_LONG)
        if "confirm" not in (ctx.input_responses or {}):
            question = ask(f"Delete {filename}?", "confirm", "boolean")
            return types.InputRequiredResult(input_requests={"confirm": question})
        return f"{filename}: {_field(ctx, 'confirm', 'confirm')}"

    @server.tool(description=FOR_THE_SUITE)
    async def multi_input(ctx: Context) -> Answer:
        await asyncio.sleep(_LONG)
        if {"first", "second"} - set(ctx.input_responses or {}):
            questions = {name: ask(f"The {name}?", "name") for name in ("first", "second")}
            return types.InputRequiredResult(input_requests=questions)
        return f"{_field(ctx, 'first', 'name')} and {_field(ctx, 'second', 'name')}"

    @server.tool(description=FOR_THE_SUITE)
    async def test_tool_with_task(ctx: Context) -> Answer:
        if "user_name" not in (ctx.input_responses or {}):
            question = ask("What is your name?", "name")
            return types.InputRequiredResult(
                input_requests={"user_name": question}, request_state="asked"
            )
        await asyncio.sleep(_LONG)
        return f"Hello, {_field(ctx, 'user_name', 'name')}!"


def app() -> App:
    """The application, behind the middleware when `PEER_DATABASE` names a file."""
    security = RequestStateSecurity(keys=[b"only for the conformance suite's own runs"])
    server = MCPServer("long", log_level="WARNING", request_state_security=security)
    _plain(server)
    _asking(server)
    bare: App = server.streamable_http_app()
    if not (database := os.environ.get("PEER_DATABASE")):
        return bare
    from mcp_persist_middleware import PersistMiddleware

    url = f"sqlite+aiosqlite:///{database}"
    persisted: App = PersistMiddleware(bare, url=url, tasks_after=TASKS_AFTER)
    return persisted
