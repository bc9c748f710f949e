# /// script
# requires-python = ">=3.11"
# dependencies = ["mcp-persist-middleware[demo]", "fastmcp"]
# ///
"""A FastMCP server, wrapped directly.

Service: none, a SQLite file.
Run:     python examples/03_fastmcp.py
Expect:  as 01_starlette.py.
"""

import anyio
from _cut import database, serve_and_cut
from fastmcp import Context, FastMCP

from mcp_persist_middleware import PersistMiddleware

server: FastMCP = FastMCP("examples")


@server.tool
async def count(n: int, ctx: Context) -> str:
    """Report progress n times."""
    for i in range(1, n + 1):
        await anyio.sleep(0.05)
        await ctx.report_progress(i, n)
    return f"counted {n}"


app = PersistMiddleware(server.http_app(), url=database(), retry_ms=200, modern_retry_ms=200)

if __name__ == "__main__":
    serve_and_cut(app, "/mcp")
