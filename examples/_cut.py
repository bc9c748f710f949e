"""What every example does with its application: serve it, cut a call of a real client after its
first event, and check that nothing was lost or doubled.
"""

import asyncio
import socket
import tempfile
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import uvicorn
from mcp import Client, ClientSession
from mcp.client.streamable_http import streamable_http_client

from mcp_persist_middleware.testing import Cut, FaultProxy, Plan, ProxiedRequest

STEPS = 10
Call = Callable[..., Awaitable[Any]]


def database() -> str:
    """The store of one run, in a directory of its own. Yours is a plain file: "events.db"."""
    directory = tempfile.mkdtemp(prefix="mcp-persist-example-")
    return f"sqlite+aiosqlite:///{Path(directory) / 'events.db'}"


def serve_and_cut(app: Any, path: str, *, handshake: bool = False) -> None:
    """Run the application under uvicorn, and the client against it through a cutting proxy.

    `handshake`: speak 2025-11-25 to a server that knows nothing newer.
    """
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            asyncio.run(_check(server, port, path, handshake))
        finally:
            server.should_exit = True
            thread.join(timeout=20)


async def _check(server: uvicorn.Server, port: int, path: str, handshake: bool) -> None:
    async with asyncio.timeout(20):
        while not server.started:
            await asyncio.sleep(0.02)

    def cut_the_call(request: ProxiedRequest) -> Plan | None:
        return Plan(cut=Cut(ids=2)) if request.rpc_method == "tools/call" else None

    async with asyncio.timeout(30), FaultProxy(port, cut_the_call) as proxy:
        url = f"http://127.0.0.1:{proxy.port}{path}"
        if handshake:
            async with streamable_http_client(url) as streams, ClientSession(*streams) as session:
                await session.initialize()
                await _call(session.call_tool)
        else:
            async with Client(url) as client:
                await _call(client.call_tool)
        assert proxy.cuts == 1, f"expected one cut connection, saw {proxy.cuts}"


async def _call(call_tool: Call) -> None:
    received: list[float] = []

    async def progress(value: float, total: float | None, message: str | None) -> None:
        received.append(value)

    result = await call_tool("count", {"n": STEPS}, progress_callback=progress)
    text = result.content[0].text
    print(f"one connection cut; progress {[int(value) for value in received]}, result {text!r}")
    assert received == list(range(1, STEPS + 1)), "progress was lost or doubled"
    assert text == f"counted {STEPS}"
