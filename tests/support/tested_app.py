"""The tests of somebody's application, as they write them: with a test client, with and without its
lifespan, and with an event loop for each. `test_testing.py` runs them in a process of their own."""

import asyncio
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from starlette.testclient import TestClient

from mcp_persist_middleware import PersistMiddleware
from tests.support.scripted import Call, Scripted

INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {}},
}
CALL = {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "two"}}
ACCEPT = {"accept": "application/json, text/event-stream"}


async def two(call: Call) -> None:
    await call.head()
    await call.progress(1)
    await call.result()


async def health(_: Request) -> PlainTextResponse:
    return PlainTextResponse("well")


directory = Path(tempfile.mkdtemp(prefix="tested-app-"))
app = Starlette(routes=[Route("/health", health), Mount("/mcp", Scripted(two=two))])
app.add_middleware(PersistMiddleware, url=str(directory / "events.db"), drain_seconds=0.1)


def left() -> tuple[int, int, set[str]]:
    """Threads, descriptors, and the files beside the store."""
    names = {path.name.partition("-")[2] for path in directory.iterdir()}
    return threading.active_count(), len(list(Path("/proc/self/fd").iterdir())), names - {""}


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left() -> Iterator[None]:
    TestClient(app).get("/health")
    before = left()
    yield
    # A connection that was cancelled while it opened is taken back by the next event loop.
    until = time.monotonic() + 10
    while (after := left()) != before and time.monotonic() < until:
        for thread in threading.enumerate():
            if thread is not threading.current_thread():
                thread.join(1)
        calls(TestClient(app))
    assert after == before, (before, after)


def calls(client: Any) -> None:
    """A session and a call in it."""
    greeted = client.post("/mcp/", json=INITIALIZE, headers=ACCEPT)
    assert greeted.status_code == 200
    session = ACCEPT | {"mcp-session-id": greeted.headers["mcp-session-id"]}
    answer = client.post("/mcp/", json=CALL, headers=session)
    assert answer.status_code == 200
    assert answer.text.count("id: ") == 2
    assert '"done"' in answer.text


@pytest.mark.parametrize("n", range(50))
def test_a_route(n: int) -> None:
    del n
    assert TestClient(app).get("/health").text == "well"


@pytest.mark.parametrize("n", range(15))
def test_a_call_without_the_lifespan(n: int) -> None:
    del n
    calls(TestClient(app))


@pytest.mark.parametrize("n", range(15))
def test_a_call_with_the_lifespan(n: int) -> None:
    del n
    with TestClient(app) as client:
        assert client.get("/health").text == "well"
        calls(client)


@pytest.mark.parametrize("n", range(20))
def test_a_loop_of_its_own(n: int) -> None:
    async def main() -> None:
        transport = httpx2.ASGITransport(app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://x") as client:
            assert (await client.get("/health")).text == "well"
            if n % 3 == 0:
                greeted = await client.post("/mcp/", json=INITIALIZE, headers=ACCEPT)
                assert greeted.status_code == 200

    asyncio.run(main())
