"""How long a plain route of the same application waits while something else goes on."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

from tests.benchmarks.servers import Server
from tests.benchmarks.wire import Connection

_RATE = 100.0


async def beats(rate: float) -> AsyncIterator[None]:
    """So many turns a second from now on, each at its time or as soon after it as may be."""
    begin = time.monotonic()
    for number in range(1, 1 << 30):
        yield
        await asyncio.sleep(max(0.0, begin + number / rate - time.monotonic()))


@contextlib.asynccontextmanager
async def probed(server: Server) -> AsyncIterator[list[float]]:
    """Ask for a plain route 100 times a second during the block; how long each answer took (ms).

    A route that answers at once waits for nothing but the loop.
    """
    took: list[float] = []
    connection = await Connection.open(server.port)

    async def probe() -> None:
        request = server.get("/plain")
        async for _ in beats(_RATE):
            answer = await connection.ask(request)
            took.append((answer.times[-1] - answer.sent) / 1e6)

    probing = asyncio.create_task(probe())
    try:
        yield took
    finally:
        probing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await probing
        connection.close()
