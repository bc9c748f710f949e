"""A FastMCP server for `fastmcp run`, which asks the server object for its application and never
sees an `app` of this file.

    $ pip install fastmcp
    $ fastmcp run examples/server_fastmcp_cli.py --transport http
"""

import asyncio
import os
from typing import Any

from fastmcp import Context, FastMCP

from mcp_persist_middleware import PersistMiddleware


class DurableServer(FastMCP):
    """Whoever builds its application gets one with the middleware."""

    def http_app(self, **given: Any) -> Any:
        app = super().http_app(**given)
        app.add_middleware(PersistMiddleware, url=os.environ.get("MCP_PERSIST_URL", "events.db"))
        return app


mcp = DurableServer("example")


@mcp.tool
async def count(n: int, ctx: Context) -> str:
    """Report progress n times."""
    for i in range(1, n + 1):
        await asyncio.sleep(0.1)
        await ctx.report_progress(i, n)
    return f"counted {n}"
