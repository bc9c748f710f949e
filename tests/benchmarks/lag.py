"""How long a plain route of the same application waits while something else goes on."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

from tests.benchmarks.servers import Server
from tests.benchmarks.wire import Connection

_RATE = 100.0


@contextlib.asynccontextmanager
async def probed(server: Server) -> AsyncIterator[list[float]]:
    """Ask for a plain route 100 times a second during the block; how long each answer took (ms).

    A route that answers at once waits for nothing but the loop.
    """
    took: list[float] = []
    connection = await Connection.open(server.port)

    async def probe() -> None:
        begin = time.monotonic()
        request = server.get("/plain")
        for number in range(1, 1 << 30):
            answer = await connection.ask(request)
            took.append((answer.times[-1] - answer.sent) / 1e6)
            await asyncio.sleep(max(0.0, begin + number / _RATE - time.monotonic()))

    probing = asyncio.create_task(probe())
    try:
        yield took
    finally:
        probing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await probing
        connection.close()
