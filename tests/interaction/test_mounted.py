"""An application that is mounted at a path, called with and without the slash that ends it."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fastapi import FastAPI
from mcp.server.mcpserver import Context, MCPServer

from mcp_persist_middleware import PersistMiddleware
from mcp_persist_middleware.testing import FaultProxy, RandomCuts
from tests.matrix.clients import Outcome, Work, run
from tests.matrix.score import score
from tests.support.scripted import serving
from tests.support.servers import _tools
from tests.support.session import MODERN, RawSession, last_id

WORK = Work(calls=3, events=6, delay=0.03, at_once=3)


def mounted(store: str) -> FastAPI:
    """The server at `/mcp`; a request to that itself is redirected to `/mcp/` (307)."""
    server = MCPServer("tests", log_level="WARNING")
    for tool in _tools(Context):
        server.tool()(tool)
    inner = server.streamable_http_app(streamable_http_path="/")

    @contextlib.asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        async with inner.router.lifespan_context(inner):
            yield

    app = FastAPI(lifespan=lifespan)
    app.mount("/mcp", inner)
    app.add_middleware(PersistMiddleware, url=store, retry_ms=300, modern_retry_ms=300)
    return app


@pytest.mark.parametrize("path", ["/mcp", "/mcp/"])
@pytest.mark.parametrize("client", ["mcp.Client 2.x", "ClientSession 2.x"])
async def test_a_cut_call_is_resumed_at_either_address(
    tmp_store: str, client: str, path: str
) -> None:
    async with serving(mounted(tmp_store)) as port:
        policy = RandomCuts(3, WORK.events, 1)
        async with FaultProxy(port, policy, on_end=policy.ended) as proxy:
            outcomes: list[Outcome] = await run(
                client, f"http://127.0.0.1:{proxy.port}{path}", WORK
            )
            total = score(outcomes, WORK, proxy.cuts)
    assert total.exactly_once(WORK), total
    assert total.cuts == WORK.calls


async def test_the_applications_redirect_is_its_answer_to_a_cursor_too(tmp_store: str) -> None:
    async with serving(mounted(tmp_store)) as port:
        session = await RawSession.open(port, MODERN, path="/mcp/")
        frames = [frame async for frame in (await session.call("count", n=3, delay=0)).frames()]
        session.path = "/mcp"
        redirected = await session.get(last_id(frames[:1]))
        assert (redirected.status, redirected.headers["location"]) == (
            307,
            f"http://127.0.0.1:{port}/mcp/",
        )
