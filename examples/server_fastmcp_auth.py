"""A FastMCP server with authentication: a stream is read again by the user who began it, with
whatever token they hold then, and by nobody else.

    $ pip install fastmcp
    $ uvicorn examples.server_fastmcp_auth:app

Two tokens are known here, for a try: `ann-token` and `bob-token`. Yours come from an issuer: see
FastMCP's `JWTVerifier` and its OAuth providers; nothing else in this file changes.
"""

import asyncio
import os

from fastmcp import Context, FastMCP
from fastmcp.server.auth.providers.jwt import StaticTokenVerifier

from mcp_persist_middleware import with_persistence

users = {f"{user}-token": {"client_id": "example", "sub": user} for user in ("ann", "bob")}
mcp: FastMCP = FastMCP("example", auth=StaticTokenVerifier(users))


@mcp.tool
async def count(n: int, ctx: Context) -> str:
    """Report progress n times."""
    for i in range(1, n + 1):
        await asyncio.sleep(0.1)
        await ctx.report_progress(i, n)
    return f"counted {n}"


# What the server checks it checks as before; the middleware stands in front of it.
app = with_persistence(mcp, os.environ.get("MCP_PERSIST_URL", "events.db"))
