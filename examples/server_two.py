"""Two FastMCP servers in one Starlette application, on one store.

    $ pip install fastmcp
    $ uvicorn examples.server_two:app

The endpoints are /letters/mcp and /numbers/mcp; a stream belongs to its path.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator

from fastmcp import Context, FastMCP
from starlette.applications import Starlette
from starlette.routing import Mount

from mcp_persist_middleware import PersistMiddleware

numbers: FastMCP = FastMCP("numbers")
letters: FastMCP = FastMCP("letters")


@numbers.tool
async def count(n: int, ctx: Context) -> str:
    """Report progress n times."""
    for i in range(1, n + 1):
        await asyncio.sleep(0.1)
        await ctx.report_progress(i, n)
    return f"counted {n}"


@letters.tool
async def spell(word: str, ctx: Context) -> str:
    """Report each letter."""
    for i, letter in enumerate(word, 1):
        await asyncio.sleep(0.1)
        await ctx.report_progress(i, len(word), letter)
    return "-".join(word)


apps = {"/numbers": numbers.http_app(), "/letters": letters.http_app()}


@contextlib.asynccontextmanager
async def lifespan(_: Starlette) -> AsyncIterator[None]:
    """What is mounted sees no start and no end: they are its parent's to pass on."""
    async with contextlib.AsyncExitStack() as stack:
        for each in apps.values():
            await stack.enter_async_context(each.lifespan(each))
        yield


app = Starlette(routes=[Mount(path, each) for path, each in apps.items()], lifespan=lifespan)
app.add_middleware(PersistMiddleware, url=os.environ.get("MCP_PERSIST_URL", "events.db"))
