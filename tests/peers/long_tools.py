"""The conformance suite's tools that take long. The server has never heard of tasks: behind the
middleware it has some. Names and texts are the suite's."""

import asyncio
from typing import Any

from mcp import types
from mcp.server.mcpserver import Context, MCPServer
from mcp.shared.exceptions import MCPError

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


def add_long_tools(server: MCPServer) -> None:
    """Register everything of this file."""
    _plain(server)
    _asking(server)
