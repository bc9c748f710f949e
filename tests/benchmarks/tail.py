"""How old an event is that one process wrote and another process delivers."""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass
from statistics import median

from tests.benchmarks.report import Row, at_most, percentile
from tests.benchmarks.rounds import Plan
from tests.benchmarks.servers import Server, pair
from tests.benchmarks.wire import TIMEOUT, Answer, Client, Connection, resume

# Events/s, and how old an event may be where it was not written (ms).
_TARGETS = {"sqlite": (100.0, 50.0), "others": (200.0, 5.0)}
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


async def _round(one: Server, two: Server, count: int, rate: float, streams: int) -> Ages:
    """Call on one worker so many tools at once, and read each on both."""

    async def follow(client: Client) -> tuple[Answer, Answer]:
        call = client.start("paced", n=count, rate=rate)
        connection = await Connection.open(two.port)
        stack.callback(connection.close)
        request = resume(two.endpoint, client.session, await client.first_id())
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


async def live_tail(plan: Plan) -> list[Row]:
    """The age of an event read on one worker and written on another, at an even rate."""
    rate, most = _TARGETS["sqlite" if plan.where.store == "sqlite" else "others"]
    count = plan.pick(200, 400)
    rows = []
    for variant in plan.ours(peer=False):
        for streams in (1, 16):
            taken = []
            # A connection that is ended and resumed now and then would measure its client.
            async with pair(plan.where, "sdk", variant, resume_rotate="off") as (one, two):
                for number in range(plan.rounds + 1):
                    ages = await _round(one, two, count, rate, streams)
                    taken += [ages] if number else []
            for fraction, name in ((0.5, "p50"), (0.99, "p99")):
                here = [percentile(ages.here, fraction) for ages in taken]
                there = [percentile(ages.there, fraction) for ages in taken]
                target, met = at_most(most, " ms")(median(there))
                judged = streams == 1 and fraction == 0.5
                rows.append(
                    Row(
                        f"age of an event read elsewhere, {name}, {streams} x {rate:g}/s",
                        variant,
                        "ms",
                        median(here),
                        median(there),
                        median(there),
                        target if judged else "",
                        met if judged else None,
                        {"rounds": there, "rounds_where_written": here},
                    )
                )
    return rows
