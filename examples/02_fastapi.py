# /// script
# requires-python = ">=3.11"
# dependencies = ["mcp-persist-middleware[demo]", "fastapi"]
# ///
"""A FastAPI application with a route of its own and an MCP server mounted below /tools.

Service: none, a SQLite file.
Run:     python examples/02_fastapi.py
Expect:  as 01_starlette.py; the FastAPI route beside it is not touched.
"""

import contextlib
from collections.abc import AsyncIterator

import anyio
from _cut import database, serve_and_cut
from fastapi import FastAPI
from mcp.server.mcpserver import Context, MCPServer

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
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """The mounted application's lifespan is the parent's to run."""
    async with server.session_manager.run():
        yield


app = FastAPI(lifespan=lifespan)
app.add_middleware(PersistMiddleware, url=database(), retry_ms=200, modern_retry_ms=200)


@app.get("/health")
def health() -> dict[str, str]:
    """A route that is not MCP passes through."""
    return {"status": "ok"}


app.mount("/tools", mcp_app)

if __name__ == "__main__":
    serve_and_cut(app, "/tools/mcp")
