"""An MCP application on a mount that sees no lifespan, beside an sse-starlette endpoint of someone
else: `uvicorn --factory tests.support.neighbours:app`, configured like `tests.support.servers`.
"""

import asyncio
import contextlib
import importlib
import sys
from collections.abc import AsyncIterator
from typing import Any

from sse_starlette import EventSourceResponse
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Mount, Route

from tests.support import servers


async def _chat(_: Request) -> EventSourceResponse:
    async def words() -> AsyncIterator[str]:
        yield "hello"
        try:
            await asyncio.Event().wait()
        finally:
            print("chat ended", file=sys.stderr, flush=True)

    return EventSourceResponse(words())


def app() -> Starlette:
    """The parent; it closes what the mount has opened before the MCP application stops."""
    mounted: Any = servers.app()
    middleware: Any = importlib.import_module("mcp_persist_middleware").PersistMiddleware
    persists = isinstance(mounted, middleware)
    inner = mounted.app if persists else mounted

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with inner.router.lifespan_context(inner):
            yield
            if persists:
                await mounted.aclose()

    return Starlette(routes=[Route("/chat", _chat), Mount("/", mounted)], lifespan=lifespan)
