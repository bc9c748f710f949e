"""What a call pays that reaches its session through another worker."""

import asyncio
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from statistics import median

from tests.benchmarks.report import Row, at_least, at_most, difference, percentile, ratio
from tests.benchmarks.rounds import Plan
from tests.benchmarks.servers import Server, pair
from tests.benchmarks.wire import Client, Connection

_CLIENTS = 32
_ADDED_MS = 25.0
_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Calls:
    """Of one round: the calls/s of many clients, and the median of one client's in ms."""

    rate: float
    p50: float


async def _calls(client: Client, count: int) -> list[float]:
    took = []
    for _ in range(count):
        answer = (await client.call("quick")).check(0, ids=True)
        took.append((answer.result_at() - answer.sent) / 1e6)
    return took


async def _round(home: Server, asked: Server, count: int) -> Calls:
    """Sessions of one worker, called through this one or another."""
    async with AsyncExitStack() as stack:
        clients = []
        for _ in range(_CLIENTS):
            owner = await stack.enter_async_context(await Client.open(home.endpoint))
            connection = await Connection.open(asked.port)
            client = Client(asked.endpoint, connection, owner.session)
            clients.append(await stack.enter_async_context(client))
        alone = await _calls(clients[0], count)
        began = time.monotonic()
        await asyncio.gather(*(_calls(client, count // 4) for client in clients))
        rate = _CLIENTS * (count // 4) / (time.monotonic() - began)
    return Calls(rate, percentile(alone, 0.5))


async def relayed_calls(plan: Plan) -> list[Row]:
    """Calls to a session through another worker than its home, against calls to the home."""
    count = plan.pick(40, 100)
    rows = []
    for variant in plan.ours(peer=False):
        local: list[Calls] = []
        relayed: list[Calls] = []
        async with pair(plan.where, "sdk", variant) as (one, two):
            for number in range(plan.rounds + 1):
                here, there = await _round(one, one, count), await _round(one, two, count)
                if number:
                    local.append(here)
                    relayed.append(there)
        rates = [each.rate for each in relayed], [each.rate for each in local]
        times = [each.p50 for each in relayed], [each.p50 for each in local]
        share, added = ratio(*rates), difference(*times)
        for name, unit, values, result, (target, met) in (
            (f"relayed calls/s of {_CLIENTS} clients", "/s", rates, share, at_least(_SHARE)(share)),
            ("added p50 of a relayed call", "ms", times, added, at_most(_ADDED_MS)(added)),
        ):
            ours, base = values
            rows.append(
                Row(
                    name,
                    variant,
                    unit,
                    median(base),
                    median(ours),
                    result,
                    target,
                    met,
                    {"rounds": ours, "local_rounds": base},
                )
            )
    return rows
