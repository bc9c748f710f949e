"""How old an event is when its client reads it, at rates that leave the processor time."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

from tests.benchmarks.lag import beats
from tests.benchmarks.report import Taken
from tests.benchmarks.rounds import Plan, over_bare
from tests.benchmarks.servers import Server
from tests.benchmarks.streams import Flow, flow
from tests.benchmarks.wire import Client

_CALLERS, _CALLS = 4, 25.0


async def _ages(plan: Plan, goal: str, streams: int, rate: float, seconds: float) -> list[Taken]:
    """Of streams that do not beat together, as those of many clients do not."""

    async def take(server: Server) -> Flow:
        count, apart = int(rate * seconds), 1 / rate / streams
        return await flow(server, streams, "paced", n=count, rate=rate, apart=apart)

    return over_bare({goal: "age_p50"}, await plan.interleaved("sdk", take))


async def some_streams(plan: Plan) -> list[Taken]:
    """16 streams at 20/s."""
    return await _ages(plan, "some", 16, 20.0, plan.pick(3, 5))


async def idle_crowd(plan: Plan) -> list[Taken]:
    """256 streams that say something every second."""
    return await _ages(plan, "idle-crowd", 256, 1.0, plan.pick(5, 10))


@contextlib.asynccontextmanager
async def calling_beside(server: Server) -> AsyncIterator[None]:
    """Four clients, each with 25 calls a second, during the block."""

    async def call(client: Client) -> None:
        async for _ in beats(_CALLS):
            (await client.call("quick")).check(0, ids=server.ids)

    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(await Client.open(server.endpoint))
            for _ in range(_CALLERS)
        ]
        calling = [asyncio.create_task(call(client)) for client in clients]
        try:
            yield
        finally:
            for task in calling:
                task.cancel()
            await asyncio.gather(*calling, return_exceptions=True)


async def beside_calls(plan: Plan) -> list[Taken]:
    """A stream at 200/s, beside clients whose calls return at once."""

    async def take(server: Server) -> Flow:
        async with calling_beside(server):
            return await flow(server, 1, "paced", n=plan.pick(400, 1_000), rate=200.0)

    taken = await plan.interleaved("sdk", take)
    return over_bare({"beside": "age_p50", "beside-p99": "age_p99"}, taken)
