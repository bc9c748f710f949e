"""How old an event is that one process wrote and another process delivers."""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass

from tests.benchmarks.report import Taken, percentile
from tests.benchmarks.rounds import Plan
from tests.benchmarks.servers import Server
from tests.benchmarks.wire import TIMEOUT, Answer, Client, Connection, listen

_RATE = 200.0
# So many ns after the reader came it has caught up, and what it reads is live.
_CAUGHT_UP = 300_000_000


@dataclass(frozen=True, slots=True)
class Ages:
    """Of one round: the age of events in ms where they were written, and where they were not."""

    here: list[float]
    there: list[float]


def _live(answer: Answer, since: int) -> list[float]:
    events = [(made, read) for made, read in answer.events() if made > since]
    return [(read - made) / 1e6 for made, read in events]


async def _round(one: Server, two: Server, count: int, streams: int) -> Ages:
    """Call on one worker so many tools at once, and read each on both."""

    async def follow(client: Client) -> tuple[Answer, Answer]:
        call = client.start("paced", n=count, rate=_RATE)
        connection = await Connection.open(two.port)
        stack.callback(connection.close)
        request = listen(two.endpoint, client.session, await client.first_id())
        there = connection.start(request)
        async with asyncio.timeout(TIMEOUT):
            return await call, await there

    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(await Client.open(one.endpoint)) for _ in range(streams)
        ]
        answers = await asyncio.gather(*map(follow, clients))
    ages = Ages([], [])
    for here, there in answers:
        since = there.sent + _CAUGHT_UP
        ages.here.extend(_live(here.check(count, ids=True), since))
        ages.there.extend(_live(there.check(count, ids=True), since))
    return ages


async def live_tail(plan: Plan) -> list[Taken]:
    """The age of an event read on one worker and written on another, at an even rate."""
    count = plan.pick(200, 400)
    rows = []
    for contender in plan.ours:
        for streams, goal in ((1, "tail"), (16, "tails")):
            taken = []
            # A connection that is ended and resumed now and then would measure its client.
            async with plan.servers.pair("sdk", contender, resume_rotate="off") as (one, two):
                for number in range(plan.rounds + 1):
                    ages = await _round(one, two, count, streams)
                    taken += [ages] if number else []
            for fraction, name in ((0.5, goal), (0.99, f"{goal}-p99")):
                here = [percentile(ages.here, fraction) for ages in taken]
                there = [percentile(ages.there, fraction) for ages in taken]
                rows.append(Taken(name, contender, there, here, is_bare=False))
    return rows
