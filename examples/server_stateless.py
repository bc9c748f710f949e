"""A server without sessions: each request stands for itself, and a call that is cut is still read
to its end by the client that comes back, to any worker on the same store.

    $ pip install "mcp>=2.3" uvicorn
    $ uvicorn examples.server_stateless:app
"""

import asyncio
import os

from mcp.server.mcpserver import Context, MCPServer

from mcp_persist_middleware import with_persistence

server = MCPServer("example")


@server.tool()
async def count(n: int, ctx: Context) -> str:
    """Report progress n times."""
    for i in range(1, n + 1):
        await asyncio.sleep(0.1)
        await ctx.report_progress(i, n)
    return f"counted {n}"


url = os.environ.get("MCP_PERSIST_URL", "events.db")
app = with_persistence(server, url, stateless_http=True)
