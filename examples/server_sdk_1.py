"""A server of the official SDK 1.x, whose `FastMCP` is not the FastMCP of `server_fastmcp.py`.

$ pip install "mcp>=1.30,<2" uvicorn
$ uvicorn examples.server_sdk_1:app
"""

import asyncio
import os

from mcp.server.fastmcp import Context, FastMCP

from mcp_persist_middleware import PersistMiddleware

server = FastMCP("example")


@server.tool()
async def count(n: int, ctx: Context) -> str:
    """Report progress n times."""
    for i in range(1, n + 1):
        await asyncio.sleep(0.1)
        await ctx.report_progress(i, n)
    return f"counted {n}"


app = server.streamable_http_app()
app.add_middleware(PersistMiddleware, url=os.environ.get("MCP_PERSIST_URL", "events.db"))
