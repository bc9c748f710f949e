"""Whoever is cancelled as a child takes a line hears of it."""

import asyncio
from typing import Any, cast

from mcp_persist_middleware.ops.proxy.stdio.process import Process


class Input:
    """A pipe that is full until it is emptied."""

    def __init__(self) -> None:
        self.is_empty = asyncio.Event()

    def write(self, _: bytes) -> None:
        """It is taken."""

    async def drain(self) -> None:
        await self.is_empty.wait()


async def test_a_cancellation_is_heard_in_whichever_round_it_comes() -> None:
    for rounds in range(5):
        made = Process.__new__(Process)
        made._input, made._writing = cast(Any, Input()), asyncio.Lock()
        made._options = cast(Any, type("Options", (), {"write_timeout": 5.0}))
        goes_on = asyncio.Event()

        async def asks(process: Process = made, behind: asyncio.Event = goes_on) -> None:
            await process.write(b"line")
            await behind.wait()

        asking = asyncio.create_task(asks())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        cast(Any, made._input).is_empty.set()
        for _ in range(rounds):
            await asyncio.sleep(0)
        asking.cancel()
        done, _ = await asyncio.wait({asking}, timeout=0.5)
        goes_on.set()
        assert done, f"it was swallowed after {rounds} rounds"
