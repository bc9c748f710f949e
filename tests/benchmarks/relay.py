"""What a call pays that reaches its session through another worker."""

import time
from contextlib import AsyncExitStack
from dataclasses import dataclass

from tests.benchmarks.calls import calling
from tests.benchmarks.report import Taken, percentile
from tests.benchmarks.rounds import Plan
from tests.benchmarks.servers import Server
from tests.benchmarks.wire import Client, Connection

_CLIENTS = 32


@dataclass(frozen=True, slots=True)
class Calls:
    """Of one round: the calls/s of many clients, and the median of one client's in ms."""

    rate: float
    p50: float


async def _round(home: Server, asked: Server, count: int) -> Calls:
    """Sessions of one worker, called through this one or another."""
    async with AsyncExitStack() as stack:
        clients = []
        for _ in range(_CLIENTS):
            owner = await stack.enter_async_context(await Client.open(home.endpoint))
            connection = await Connection.open(asked.port)
            client = Client(asked.endpoint, connection, owner.session)
            clients.append(await stack.enter_async_context(client))
        alone = await calling(clients[:1], count, ids=True)
        began = time.monotonic()
        took = await calling(clients, count // 4, ids=True)
        rate = len(took) / (time.monotonic() - began)
    return Calls(rate, percentile(alone, 0.5))


async def relayed_calls(plan: Plan) -> list[Taken]:
    """Calls to a session through another worker than its home, against calls to the home."""
    count = plan.pick(40, 100)
    rows = []
    for contender in plan.ours:
        local: list[Calls] = []
        relayed: list[Calls] = []
        async with plan.servers.pair("sdk", contender) as (one, two):
            for number in range(plan.rounds + 1):
                here, there = await _round(one, one, count), await _round(one, two, count)
                if number:
                    local.append(here)
                    relayed.append(there)
        for goal, value in (("relayed", "rate"), ("relayed-p50", "p50")):
            ours, base = ([getattr(each, value) for each in taken] for taken in (relayed, local))
            rows.append(Taken(goal, contender, ours, base, is_bare=False))
    return rows
