"""A request to a child that is cancelled on its way leaves nothing that the child waits for."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, cast

from mcp_persist_middleware.ops.proxy.stdio.child import Child
from mcp_persist_middleware.ops.proxy.stdio.options import StdioOptions
from mcp_persist_middleware.supervision import Supervisor


class Process:
    """One that takes a line after a while, and says what it is told to say."""

    ending = ""

    def __init__(self) -> None:
        self.said: asyncio.Queue[bytes] = asyncio.Queue()
        self.takes = asyncio.Event()

    async def write(self, _: bytes) -> None:
        await self.takes.wait()

    async def lines(self) -> AsyncIterator[bytes]:
        while True:
            yield await self.said.get()

    async def ended(self, _: float) -> bool:
        return True

    async def stop(self) -> str:
        return ""


async def test_who_is_cancelled_while_it_asks_holds_nobody_else_up() -> None:
    process, tasks = Process(), Supervisor()
    child = Child(cast(Any, process), StdioOptions(), tasks, is_session=True)
    call: dict[str, Any] = {"jsonrpc": "2.0", "id": 1, "method": "tools/call"}
    call["params"] = {"name": "slow", "_meta": {"progressToken": "p"}}
    asking = asyncio.create_task(child.ask(json.dumps(call), call))
    await asyncio.sleep(0.01)
    asking.cancel()
    await asyncio.wait({asking})
    process.takes.set()
    other = {"jsonrpc": "2.0", "id": 2, "method": "tools/list"}
    stream = await child.ask(json.dumps(other), other)
    progress = {"method": "notifications/progress", "params": {"progressToken": 1, "progress": 1}}
    for _ in range(20):
        process.said.put_nowait(json.dumps({"jsonrpc": "2.0", **progress}).encode())
    process.said.put_nowait(json.dumps({"jsonrpc": "2.0", "id": 2, "result": {}}).encode())
    try:
        async with asyncio.timeout(2):
            assert (await stream.get())[1]
    finally:
        await tasks.aclose()
