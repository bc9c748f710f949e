# /// script
# requires-python = ">=3.11"
# dependencies = ["mcp-persist-middleware[demo]"]
# ///
"""A Starlette application with an MCP server of the official SDK mounted in it.

Service: none, a SQLite file.
Run:     python examples/01_starlette.py
Expect:  a call whose connection is cut after the first event ends with all its progress and its
         result, and the script exits with 0.
"""

import contextlib
from collections.abc import AsyncIterator

import anyio
from _cut import database, serve_and_cut
from mcp.server.mcpserver import Context, MCPServer
from starlette.applications import Starlette
from starlette.routing import Mount

from mcp_persist_middleware import PersistMiddleware

server = MCPServer("examples", log_level="WARNING")


@server.tool()
async def count(n: int, ctx: Context) -> str:
    """Report progress n times."""
    for i in range(1, n + 1):
        await anyio.sleep(0.05)
        await ctx.report_progress(i, n)
    return f"counted {n}"


mcp_app = server.streamable_http_app()


@contextlib.asynccontextmanager
async def lifespan(_: Starlette) -> AsyncIterator[None]:
    """The mounted application's lifespan is the parent's to run."""
    async with server.session_manager.run():
        yield


app = Starlette(routes=[Mount("/", mcp_app)], lifespan=lifespan)
app.add_middleware(PersistMiddleware, url=database(), retry_ms=200, modern_retry_ms=200)

if __name__ == "__main__":
    serve_and_cut(app, "/mcp")
