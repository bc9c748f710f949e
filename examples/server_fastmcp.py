"""A FastMCP server, with the helper: it adds health pages at /healthz as well.

$ pip install fastmcp
$ uvicorn examples.server_fastmcp:app
"""

import asyncio
import os

from fastmcp import Context, FastMCP

from mcp_persist_middleware import with_persistence

mcp: FastMCP = FastMCP("example")


@mcp.tool
async def count(n: int, ctx: Context) -> str:
    """Report progress n times."""
    for i in range(1, n + 1):
        await asyncio.sleep(0.1)
        await ctx.report_progress(i, n)
    return f"counted {n}"


app = with_persistence(mcp, os.environ.get("MCP_PERSIST_URL", "events.db"))
