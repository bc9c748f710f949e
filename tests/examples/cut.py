"""What every example is for: a call that is cut after its first event comes whole."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx2
from mcp import Client, ClientSession
from mcp.client.streamable_http import streamable_http_client

from mcp_persist_middleware.testing import Cut, FaultProxy, Plan, ProxiedRequest

STEPS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A call of one progress event for each of its steps."""

    path: str = "/mcp"
    tool: str = "count"
    arguments: Mapping[str, Any] = field(default_factory=lambda: {"n": STEPS})
    result: str = f"counted {STEPS}"
    handshake: bool = False
    """Speak 2025-11-25, to a server that knows nothing newer."""
    token: str | None = None


def _cut_calls(request: ProxiedRequest) -> Plan | None:
    return Plan(cut=Cut(ids=2)) if request.rpc_method == "tools/call" else None


async def cut_and_check(port: int, call: Call) -> None:
    """Make the call through a proxy that cuts it."""
    received: list[float] = []

    async def progress(value: float, total: float | None, message: str | None) -> None:
        received.append(value)

    async with asyncio.timeout(60), FaultProxy(port, _cut_calls) as proxy:
        async with _connected(f"http://127.0.0.1:{proxy.port}{call.path}", call) as client:
            result = await client.call_tool(
                call.tool, dict(call.arguments), progress_callback=progress
            )
        assert proxy.cuts == 1, f"expected one cut connection, saw {proxy.cuts}"
    assert result.content[0].text == call.result
    assert received == list(range(1, STEPS + 1)), "progress was lost or doubled"


@asynccontextmanager
async def _connected(url: str, call: Call) -> AsyncIterator[Any]:
    headers = {"authorization": f"Bearer {call.token}"} if call.token else {}
    async with httpx2.AsyncClient(headers=headers, timeout=30) as http:
        transport = streamable_http_client(url, http_client=http)
        if not call.handshake:
            async with Client(transport) as client:
                yield client
            return
        async with transport as streams, ClientSession(*streams) as session:
            await session.initialize()
            yield session
