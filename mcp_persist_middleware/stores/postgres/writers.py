"""The connections that write, which are kept: while the server executes one batch, the next one is
made and sent on another."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from mcp_persist_middleware.stores.postgres import engine

WRITERS = 2
"""More than two gain nothing: this side of the connection is busy all the time then."""

# What these connections plan once, whatever the size of the tables is then. A bitmap of a stream
# would be one of all that retention has removed from it and no vacuum has seen yet.
_PLANS = (
    "SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off;"
    " SET enable_bitmapscan = off; SET enable_nestloop = off; SET jit = off"
)


class WriteConnection:
    """One connection, made when it is needed."""

    def __init__(self, connect: engine.ConnectRaw) -> None:
        self._connect = connect
        self._made: tuple[AsyncConnection, Any] | None = None

    async def driver(self) -> Any:
        """The driver's connection."""
        if self._made is None:
            self._made = await self._connect()
            await self._made[1].execute(_PLANS)
        return self._made[1]

    async def drop(self) -> None:
        """Close it, if it is there; the next batch makes another."""
        made, self._made = self._made, None
        if made is not None:
            await engine.drop(made[0])


class WriteConnections:
    """Hands each batch a connection of its own."""

    def __init__(self, connect: engine.ConnectRaw) -> None:
        self._free: asyncio.LifoQueue[WriteConnection] = asyncio.LifoQueue()
        for _ in range(WRITERS):
            self._free.put_nowait(WriteConnection(connect))

    @contextlib.asynccontextmanager
    async def one(self) -> AsyncIterator[WriteConnection]:
        """The connection that was used last of those that are free. Its time-outs, or those of
        whoever uses it, bound the wait; where they fail it is dropped."""
        writer = await self._free.get()
        try:
            yield writer
        except BaseException:
            await writer.drop()
            raise
        finally:
            self._free.put_nowait(writer)

    async def aclose(self) -> None:
        """Wait for those that are in use, and close all."""
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(WRITERS):
                writer = await stack.enter_async_context(self.one())
                await writer.drop()
