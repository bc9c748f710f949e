"""What every worker behind the balancer runs: tools with progress, with a question to the client,
and with state in memory. The middleware takes its settings from `MCP_PERSIST_*` in the environment.

    MCP_PERSIST_URL=postgresql+asyncpg://… uvicorn _worker:app --app-dir examples --port 8001
"""

import os
from collections import Counter

import anyio
from mcp.server.mcpserver import Context, MCPServer
from pydantic import BaseModel

from mcp_persist_middleware import PersistMiddleware

server = MCPServer("examples", log_level="WARNING")
visits: Counter[str] = Counter()


class Name(BaseModel):
    """What the client is asked for."""

    name: str


@server.tool()
async def count(n: int, ctx: Context) -> str:
    """Report progress n times."""
    for i in range(1, n + 1):
        await anyio.sleep(0.05)
        await ctx.report_progress(i, n)
    return f"counted {n}"


@server.tool()
async def visit(ctx: Context) -> str:
    """How often this session was here, as this process remembers it, and which process it is."""
    session = ctx.headers["mcp-session-id"]
    visits[session] += 1
    return f"{visits[session]} {os.getpid()}"


@server.tool()
async def greet(ctx: Context) -> str:
    """Ask for a name."""
    answer = await ctx.elicit("Who are you?", Name)
    return f"hello {answer.data.name}" if answer.action == "accept" else "hello"


# On another host than this one the application checks no Host header; what is in front does.
app = server.streamable_http_app(host=os.environ.get("WORKER_HOST", "127.0.0.1"))
app.add_middleware(PersistMiddleware)
