"""Measures on running streams: single events, everyday rates, and rates flat out."""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass

from tests.benchmarks.contenders import Contender
from tests.benchmarks.floor import Floors
from tests.benchmarks.lag import probed
from tests.benchmarks.report import Taken, percentile
from tests.benchmarks.rounds import Plan, over_bare
from tests.benchmarks.servers import Server
from tests.benchmarks.wire import Client

_RATE = 200.0
_MANY, _EVERYDAY = 64, 20.0


@dataclass(frozen=True, slots=True)
class Flow:
    """One round: events per second, the age of events when they were read (ms), what the server's
    processor did for one of them (µs), and how long a plain route waited beside them (ms)."""

    rate: float
    age_p50: float
    age_p99: float
    cpu: float
    lag_p99: float = 0.0


async def flow(
    server: Server,
    streams: int,
    tool: str,
    *,
    probe: bool = False,
    apart: float = 0.0,
    **arguments: float,
) -> Flow:
    """Run a tool on so many sessions at once and read everything they send; each begins so much
    later (seconds) than the one before."""
    lags: list[float] = []
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(await Client.open(server.endpoint))
            for _ in range(streams)
        ]
        if probe:
            lags = await stack.enter_async_context(probed(server))
        used = server.cpu_us()
        phases = [{"phase": apart * number} if apart else {} for number in range(streams)]
        answers = await asyncio.gather(
            *(
                client.call(tool, **arguments, **phase)
                for client, phase in zip(clients, phases, strict=True)
            )
        )
        used = server.cpu_us() - used
    expected = int(arguments["n"])
    ages, begin, end = [], answers[0].sent, 0
    for answer in answers:
        events = answer.check(expected, ids=server.ids).events()
        ages += [(here - made) / 1e6 for made, here in events]
        begin, end = min(begin, answer.sent), max(end, answer.times[-1])
    return Flow(
        rate=streams * expected / ((end - begin) / 1e9),
        age_p50=percentile(ages, 0.5),
        age_p99=percentile(ages, 0.99),
        cpu=used / (streams * expected),
        lag_p99=percentile(lags, 0.99) if lags else 0.0,
    )


async def single_events(plan: Plan) -> list[Taken]:
    """The age of an event at 1 stream x 200 events/s, against the commit floor."""
    count = plan.pick(200, 400)
    floors = Floors(plan.servers.directory)

    async def take(server: Server) -> Flow:
        await floors.take(server.contender, count // 2, 1 / _RATE)
        return await flow(server, 1, "paced", n=count, rate=_RATE)

    taken = await plan.interleaved("sdk", take)
    return over_bare({"event": "age_p50"}, taken, floors.medians())


async def many_streams(plan: Plan) -> list[Taken]:
    """64 streams at an everyday rate: ages, processor, and the loop beside them."""

    async def take(server: Server) -> Flow:
        count = plan.pick(40, 80)
        return await flow(server, _MANY, "paced", probe=True, n=count, rate=_EVERYDAY)

    taken = await plan.interleaved("sdk", take)
    goals = {"many": "age_p50", "many-p99": "age_p99", "many-cpu": "cpu", "many-lag": "lag_p99"}
    return over_bare(goals, taken)


async def _flat_out(
    plan: Plan, app: str, streams: int, n: int, *, peers: bool = True
) -> dict[Contender, list[Flow]]:
    async def take(server: Server) -> Flow:
        return await flow(server, streams, "burst", n=n)

    return await plan.interleaved(app, take, peers=peers)


async def one_stream(plan: Plan) -> list[Taken]:
    """One stream flat out."""
    taken = await _flat_out(plan, "sdk", 1, plan.pick(4_000, 8_000))
    return over_bare({"one": "rate", "one-cpu": "cpu"}, taken)


async def sixteen_streams(plan: Plan) -> list[Taken]:
    """16 streams flat out, and how old an event is when its client reads it."""
    taken = await _flat_out(plan, "sdk", 16, plan.pick(800, 2_000))
    return over_bare({"sixteen": "rate", "sixteen-cpu": "cpu", "sixteen-age": "age_p99"}, taken)


async def crowd(plan: Plan) -> list[Taken]:
    """256 streams flat out; mcp-persist on Redis has no connection for so many."""
    taken = await _flat_out(plan, "sdk", 256, plan.pick(40, 100), peers=False)
    return over_bare({"crowd": "rate"}, taken)


async def raw_streams(plan: Plan) -> list[Taken]:
    """16 streams of a hand-written application."""
    taken = await _flat_out(plan, "raw", 16, plan.pick(2_000, 4_000), peers=False)
    return over_bare({"raw": "rate"}, taken)
