"""A FastAPI application with routes of its own, an MCP server at /mcp, and browsers that may ask.

$ pip install "mcp>=2.3" fastapi uvicorn
$ uvicorn examples.server_fastapi:app
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
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


# The mount is at /mcp; inside of it the endpoint is the root.
mounted = server.streamable_http_app(streamable_http_path="/")


@contextlib.asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """What is mounted sees no start and no end: they are its parent's to pass on."""
    async with mounted.router.lifespan_context(mounted):
        yield


app = FastAPI(lifespan=lifespan)
app.mount("/mcp", mounted)
app.add_middleware(PersistMiddleware, url=os.environ.get("MCP_PERSIST_URL", "events.db"))
# Added later, so it is outside: it answers browsers' questions before anything else does.
app.add_middleware(
    CORSMiddleware,
    allow_origins=["https://app.example"],
    allow_methods=["GET", "POST", "DELETE"],
    allow_headers=[
        "Authorization",
        "Content-Type",
        "Last-Event-ID",
        "Mcp-Session-Id",
        "Mcp-Protocol-Version",
    ],
    expose_headers=["Mcp-Session-Id"],
)


@app.get("/hello")
def hello() -> dict[str, str]:
    """A route that is not MCP: it never waits for the store."""
    return {"hello": "world"}
