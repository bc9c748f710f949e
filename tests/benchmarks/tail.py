"""How old an event is that one process wrote and another process delivers."""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass

from tests.benchmarks.report import Taken, percentile
from tests.benchmarks.rounds import Plan
from tests.benchmarks.servers import Server
from tests.benchmarks.wire import TIMEOUT, Answer, Client, Connection, listen

_STREAM, _SOME, _CROWD = (1, 200.0, "tail"), (16, 20.0, "tail-some"), (256, 1.0, "tail-crowd")
# The two cores just bear so much.
_FULL = 16, 200.0, "tails"
# So many come together: a crowd that comes at once is not what is measured.
_AT_ONCE = 8
# So many ns after the last reader came all have caught up, and what they read is live.
_CAUGHT_UP = 2_000_000_000


@dataclass(frozen=True, slots=True)
class Ages:
    """Of one round: the age of events in ms where they were written, and where they were not."""

    here: list[float]
    there: list[float]


def _live(answer: Answer, since: int) -> list[float]:
    events = [(made, read) for made, read in answer.events() if made > since]
    return [(read - made) / 1e6 for made, read in events]


async def _round(one: Server, two: Server, streams: int, rate: float, seconds: float) -> Ages:
    """Call on one worker so many tools, which do not beat together, and read each on both."""
    count, coming = int(rate * seconds), asyncio.Semaphore(_AT_ONCE)

    async def follow(number: int, client: Client) -> tuple[Answer, Answer]:
        async with coming:
            call = client.start("paced", n=count, rate=rate, phase=number / rate / streams)
            await client.first_id()
        request = listen(two.endpoint, client.session, await client.first_event())
        connection = await Connection.open(two.port)
        stack.callback(connection.close)
        there = connection.start(request)
        async with asyncio.timeout(TIMEOUT):
            return await call, await there

    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(await Client.open(one.endpoint)) for _ in range(streams)
        ]
        answers = await asyncio.gather(*(follow(*each) for each in enumerate(clients)))
    ages, since = Ages([], []), max(there.sent for _, there in answers) + _CAUGHT_UP
    for here, there in answers:
        ages.here.extend(_live(here.check(count, ids=True), since))
        ages.there.extend(_live(there.check(count, ids=True), since))
    return ages


async def live_tail(plan: Plan) -> list[Taken]:
    """The age of an event read on one worker and written on another, at an even rate."""
    rows = []
    for contender in plan.ours:
        for streams, rate, goal in (_STREAM, _SOME, _CROWD, _FULL):
            seconds = plan.pick(10.0, 14.0) if rate == 1.0 else plan.pick(4.0, 5.0)
            taken = []
            # A connection that is ended and resumed now and then would measure its client.
            async with plan.servers.pair("sdk", contender, resume_rotate="off") as (one, two):
                for number in range(plan.rounds + 1):
                    ages = await _round(one, two, streams, rate, seconds)
                    taken += [ages] if number else []
            for fraction, name in ((0.5, goal), (0.99, f"{goal}-p99")):
                here = [percentile(ages.here, fraction) for ages in taken]
                there = [percentile(ages.there, fraction) for ages in taken]
                rows.append(Taken(name, contender, there, here, is_bare=False))
    return rows
