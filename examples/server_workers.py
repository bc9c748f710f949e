"""What each of several workers behind a balancer runs: tools with progress, with a question to the
client, and with state in memory. The settings are taken from `MCP_PERSIST_*` in the environment:

    $ export MCP_PERSIST_URL=postgresql://user:password@host/database
    $ uvicorn examples.server_workers:app --port 8001

`haproxy.cfg` and `nginx.conf` stand in front of two of them; the Dockerfile, docker-compose.yaml
and kubernetes.yaml run it too.
"""

import asyncio
import os
from collections import Counter

from mcp.server.mcpserver import Context, MCPServer
from pydantic import BaseModel

from mcp_persist_middleware import PersistMiddleware

server = MCPServer("example")
visits: Counter[str] = Counter()


class Name(BaseModel):
    """What the client is asked for."""

    name: str


@server.tool()
async def count(n: int, ctx: Context) -> str:
    """Report progress n times."""
    for i in range(1, n + 1):
        await asyncio.sleep(0.1)
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
