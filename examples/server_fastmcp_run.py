"""A FastMCP server that runs itself.

    $ pip install fastmcp
    $ python examples/server_fastmcp_run.py

`mcp.add_middleware` is for FastMCP's own middleware, which sees MCP messages and no connections.
"""

import asyncio
import os

from fastmcp import Context, FastMCP
from starlette.middleware import Middleware

from mcp_persist_middleware import PersistMiddleware

mcp: FastMCP = FastMCP("example")


@mcp.tool
async def count(n: int, ctx: Context) -> str:
    """Report progress n times."""
    for i in range(1, n + 1):
        await asyncio.sleep(0.1)
        await ctx.report_progress(i, n)
    return f"counted {n}"


if __name__ == "__main__":
    url = os.environ.get("MCP_PERSIST_URL", "events.db")
    # It gives its connections 2 s at a shutdown, unless it is told to wait for its calls.
    uvicorn_config = {"timeout_graceful_shutdown": None}
    middleware = [Middleware(PersistMiddleware, url=url)]
    mcp.run(transport="http", middleware=middleware, uvicorn_config=uvicorn_config)
