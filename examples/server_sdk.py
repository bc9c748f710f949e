"""A server of the official SDK 2.x.

$ pip install "mcp>=2.3" uvicorn
$ uvicorn examples.server_sdk:app
"""

import asyncio
import os

from mcp.server.mcpserver import Context, MCPServer

from mcp_persist_middleware import PersistMiddleware

server = MCPServer("example")


@server.tool()
async def count(n: int, ctx: Context) -> str:
    """Report progress n times."""
    for i in range(1, n + 1):
        await asyncio.sleep(0.1)
        await ctx.report_progress(i, n)
    return f"counted {n}"


app = server.streamable_http_app()
# PostgreSQL: MCP_PERSIST_URL=postgresql://user:password@host/database
app.add_middleware(PersistMiddleware, url=os.environ.get("MCP_PERSIST_URL", "events.db"))
