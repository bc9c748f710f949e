"""Measures on running streams: latency of single events, and rates flat out."""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass
from statistics import median
from typing import Any

from tests.benchmarks.floor import BareDriver, floor_ms
from tests.benchmarks.report import Row, at_least, at_most, difference, percentile, ratio
from tests.benchmarks.rounds import Plan, interleaved
from tests.benchmarks.servers import Server, Variant, servers
from tests.benchmarks.wire import Client

_RATE = 200.0
_OVER_FLOOR_MS = 0.15


@dataclass(frozen=True, slots=True)
class Flow:
    """One round: events per second, the age of events when they were read in ms, and what the
    server's processor did for one of them in microseconds.
    """

    rate: float
    age_p50: float
    age_p99: float
    cpu_us: float


async def flow(server: Server, streams: int, tool: str, **arguments: float) -> Flow:
    """Run a tool on so many sessions at once and read everything they send."""
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(await Client.open(server.endpoint))
            for _ in range(streams)
        ]
        used = server.cpu_seconds()
        answers = await asyncio.gather(*(client.call(tool, **arguments) for client in clients))
        used = server.cpu_seconds() - used
    expected = int(arguments["n"])
    ages, begin, end = [], answers[0].sent, 0
    for answer in answers:
        events = answer.check(expected, ids=server.ids).events()
        ages += [(here - made) / 1e6 for made, here in events]
        begin, end = min(begin, answer.sent), max(end, answer.times[-1])
    rate = streams * expected / ((end - begin) / 1e9)
    cpu_us = used * 1e6 / (streams * expected)
    return Flow(rate, percentile(ages, 0.5), percentile(ages, 0.99), cpu_us)


async def single_events(plan: Plan) -> list[Row]:
    """The added p50 of an event at 1 stream x 200 events/s, against the commit floor."""
    count = plan.pick(200, 400)
    floors: dict[Variant, list[float]] = {v: [] for v in (Variant.NORMAL, Variant.FULL)}
    tight: dict[Variant, list[float]] = {v: [] for v in floors}

    async def take(server: Server) -> float:
        if server.variant in floors:
            path = plan.where.directory / f"floor-{server.variant}.db"
            driver = BareDriver(path, server.variant)
            floors[server.variant].append(await floor_ms(driver, count // 2, 1 / _RATE))
            tight[server.variant].append(await floor_ms(driver, count, 0))
            driver.close()
        return (await flow(server, 1, "paced", n=count, rate=_RATE)).age_p50

    async with servers(plan.where, "sdk", plan.all()) as running:
        taken = await interleaved(plan, running, take)
    rows = []
    for variant in plan.ours():
        added = difference(taken[variant], taken[Variant.BARE])
        floor = median(floors.get(variant, floors[Variant.NORMAL])[1:])
        target, met = at_most(round(floor + _OVER_FLOOR_MS, 3))(added)
        rows.append(
            Row(
                "added p50 per event, 1 x 200/s",
                variant,
                "ms",
                median(taken[Variant.BARE]),
                median(taken[variant]),
                added,
                f"{target} (floor {floor:.3f})",
                None if variant is Variant.PEER else met,
                {
                    "rounds": taken[variant],
                    "bare_rounds": taken[Variant.BARE],
                    "floor_ms": floor,
                    "floor_back_to_back_ms": median(tight[variant]) if variant in tight else None,
                },
            )
        )
    return rows


async def _flat_out(plan: Plan, app: str, streams: int, n: int) -> dict[Variant, list[Flow]]:
    async def take(server: Server) -> Flow:
        return await flow(server, streams, "burst", n=n)

    async with servers(plan.where, app, plan.all(peer=app == "sdk")) as running:
        return await interleaved(plan, running, take)


def _processor(taken: dict[Variant, list[Flow]], variant: Variant) -> dict[str, Any]:
    of = {v: median(one.cpu_us for one in taken[v]) for v in (variant, Variant.BARE)}
    return {"cpu_us_per_event": of[variant], "bare_cpu_us_per_event": of[Variant.BARE]}


def _rates(measure: str, plan: Plan, taken: dict[Variant, list[Flow]], limit: float) -> list[Row]:
    bare = [one.rate for one in taken[Variant.BARE]]
    rows = []
    for variant in plan.ours():
        if variant not in taken:
            continue
        ours = [one.rate for one in taken[variant]]
        result = ratio(ours, bare)
        target, met = at_least(limit)(result)
        detail = {"rounds": ours, "bare_rounds": bare} | _processor(taken, variant)
        judged = None if variant is Variant.PEER else met
        shown = (median(bare), median(ours), result, target, judged, detail)
        rows.append(Row(measure, variant, "events/s", *shown))
    return rows


async def one_stream(plan: Plan) -> list[Row]:
    """Events per second of one stream flat out, against the bare application."""
    taken = await _flat_out(plan, "sdk", 1, plan.pick(4_000, 8_000))
    return _rates("flat out, 1 stream", plan, taken, 0.85)


async def sixteen_streams(plan: Plan) -> list[Row]:
    """The same with 16 streams, and how old an event is when its client reads it."""
    taken = await _flat_out(plan, "sdk", 16, plan.pick(800, 2_000))
    rows = _rates("flat out, 16 streams", plan, taken, 0.80)
    bare = [one.age_p99 for one in taken[Variant.BARE]]
    for variant in plan.ours():
        ours = [one.age_p99 for one in taken[variant]]
        target, met = at_most(60, " ms")(median(ours))
        detail = {"rounds": ours, "p50": median(one.age_p50 for one in taken[variant])}
        judged = None if variant is Variant.PEER else met
        shown = (median(bare), median(ours), median(ours), target, judged, detail)
        rows.append(Row("age of an event, p99, 16 streams", variant, "ms", *shown))
    return rows


async def raw_streams(plan: Plan) -> list[Row]:
    """Events per second of 16 streams of a hand-written application."""
    taken = await _flat_out(plan, "raw", 16, plan.pick(2_000, 4_000))
    bare = [one.rate for one in taken[Variant.BARE]]
    rows = []
    for variant in plan.ours(peer=False):
        ours = [one.rate for one in taken[variant]]
        target, met = at_least(25_000, "/s")(median(ours))
        detail: dict[str, Any] = {"rounds": ours, "bare_rounds": bare, "ratio": ratio(ours, bare)}
        detail |= _processor(taken, variant)
        shown = (median(bare), median(ours), median(ours), target, met, detail)
        rows.append(Row("raw ASGI app, 16 streams", variant, "events/s", *shown))
    return rows
