"""The server of `tests.peers.mixed`: the official SDK with the middleware in front.

`uvicorn --factory tests.peers.mixed_app:app`, with the store's settings in `MCP_PERSIST_*`.
`TEST_RAN` names a file to which each execution of a tool appends one line: `run NONCE`, and
`cancelled NONCE` when it was cancelled. Each session's number of calls is kept in memory.
"""

import asyncio
import json
import os
import warnings
from collections import Counter
from typing import Any

from mcp import types
from mcp.server.mcpserver import Context, MCPServer
from pydantic import BaseModel

from mcp_persist_middleware import PersistMiddleware

server = MCPServer("mixed", log_level="WARNING")
_calls: Counter[str] = Counter()


class Answer(BaseModel):
    """What `ask` asks for."""

    nonce: str


def _note(text: str) -> None:
    """One append; the processes share the file."""
    descriptor = os.open(os.environ["TEST_RAN"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(descriptor, f"{text}\n".encode())
    os.close(descriptor)


def _begin(nonce: str, ctx: Context) -> dict[str, Any]:
    """Count the call in the memory of its session; what is told of both."""
    request: Any = ctx.request_context.request
    told = request.scope["extensions"]["mcp_persist"]
    inner = request.headers["mcp-session-id"]
    _calls[inner] += 1
    _note(f"run {nonce}")
    return {
        "nonce": nonce,
        "calls": _calls[inner],
        "session": told["session"],
        "generation": told["generation"],
        "worker": os.getpid(),
    }


@server.tool()
async def work(nonce: str, n: int, delay: float, ctx: Context) -> str:
    """Report n progress notifications, then answer."""
    told = _begin(nonce, ctx)
    for step in range(1, n + 1):
        await asyncio.sleep(delay)
        await ctx.report_progress(step, n)
    return json.dumps(told)


@server.tool()
async def ask(nonce: str, n: int, ctx: Context) -> str:
    """Report progress, ask the user, report progress, answer with what they said."""
    told = _begin(nonce, ctx)
    for step in range(1, n + 1):
        await ctx.report_progress(step, n)
        if step == (n + 1) // 2:
            answer = await ctx.elicit(f"What is the nonce? {nonce}", Answer)
            told["answer"] = answer.data.nonce if answer.action == "accept" else answer.action
    return json.dumps(told)


@server.tool()
async def sample(nonce: str, n: int, ctx: Context) -> str:
    """The same with a question to the client's model."""
    told = _begin(nonce, ctx)
    for step in range(1, n + 1):
        await ctx.report_progress(step, n)
        if step == (n + 1) // 2:
            message = types.SamplingMessage(
                role="user", content=types.TextContent(type="text", text=nonce)
            )
            with warnings.catch_warnings(action="ignore"):
                answer = await ctx.session.create_message(
                    [message], max_tokens=10, related_request_id=ctx.request_id
                )
            content: Any = answer.content
            told["answer"] = content.text
    return json.dumps(told)


@server.tool()
async def wait(nonce: str, ctx: Context) -> str:
    """Report progress once and wait to be cancelled."""
    _begin(nonce, ctx)
    await ctx.report_progress(1, 2)
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        _note(f"cancelled {nonce}")
        raise
    return ""


@server.tool()
async def tell(nonce: str, ctx: Context) -> str:
    """Answer at once."""
    return json.dumps(_begin(nonce, ctx))


def app() -> PersistMiddleware:
    """The application of one worker."""
    return PersistMiddleware(server.streamable_http_app())
