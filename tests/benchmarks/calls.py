"""What a tool call pays that returns at once."""

import asyncio
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass

from tests.benchmarks.lag import probed
from tests.benchmarks.report import Taken, percentile
from tests.benchmarks.rounds import Plan, over_bare
from tests.benchmarks.servers import Server
from tests.benchmarks.wire import Client

_CLIENTS = 16


@dataclass(frozen=True, slots=True)
class Calls:
    """One round: the median time until a result is here (ms), calls/s of all clients, what the
    server's processor did for one (µs), and how long a plain route waited beside them (ms)."""

    p50: float
    rate: float
    cpu: float
    lag_p99: float = 0.0


async def calling(clients: list[Client], count: int, *, ids: bool | None) -> list[float]:
    """Each client calls so often, one call after the other; how long each took (ms)."""
    took = []

    async def call(client: Client) -> None:
        for _ in range(count):
            answer = (await client.call("quick")).check(0, ids=ids)
            took.append((answer.result_at() - answer.sent) / 1e6)

    await asyncio.gather(*map(call, clients))
    return took


async def calls(
    server: Server,
    count: int,
    *,
    clients: int = 1,
    modern: bool = False,
    ids: bool | None = None,
    probe: bool = False,
) -> Calls:
    """A round of calls, so many of each client."""
    lags: list[float] = []
    async with AsyncExitStack() as stack:
        ready = [
            await stack.enter_async_context(await Client.open(server.endpoint, modern=modern))
            for _ in range(clients)
        ]
        if probe:
            lags = await stack.enter_async_context(probed(server))
        used, begin = server.cpu_us(), time.monotonic()
        took = await calling(ready, count, ids=ids)
        seconds, used = time.monotonic() - begin, server.cpu_us() - used
    return Calls(
        p50=percentile(took, 0.5),
        rate=len(took) / seconds,
        cpu=used / len(took),
        lag_p99=percentile(lags, 0.99) if lags else 0.0,
    )


async def single_calls(plan: Plan) -> list[Taken]:
    """One client in a handshake-era session, a call after the other."""

    async def take(server: Server) -> Calls:
        return await calls(server, plan.pick(200, 500), ids=server.ids)

    return over_bare({"call": "p50", "call-cpu": "cpu"}, await plan.interleaved("sdk", take))


async def many_calls(plan: Plan) -> list[Taken]:
    """16 clients, each a call after the other; a plain route beside them in a round of its own."""

    async def take(server: Server) -> Calls:
        count = plan.pick(50, 100)
        return await calls(server, count, clients=_CLIENTS, ids=server.ids)

    async def beside(server: Server) -> Calls:
        count = plan.pick(50, 100)
        return await calls(server, count, clients=_CLIENTS, ids=server.ids, probe=True)

    rows = over_bare({"calls": "rate", "calls-cpu": "cpu"}, await plan.interleaved("sdk", take))
    return rows + over_bare({"calls-lag": "lag_p99"}, await plan.interleaved("sdk", beside))


async def json_calls(plan: Plan) -> list[Taken]:
    """The same call of an application that answers as JSON."""

    async def take(server: Server) -> Calls:
        return await calls(server, plan.pick(200, 500))

    taken = await plan.interleaved("json", take, peers=False)
    return over_bare({"json": "p50", "json-cpu": "cpu"}, taken)


async def modern_calls(plan: Plan) -> list[Taken]:
    """The same call at 2026-07-28, without a session."""

    async def take(server: Server) -> Calls:
        return await calls(server, plan.pick(200, 500), modern=True)

    return over_bare({"modern": "p50", "modern-cpu": "cpu"}, await plan.interleaved("sdk", take))
