"""What a tool call pays that returns at once."""

from statistics import median

from tests.benchmarks.floor import BareDriver, floor_ms
from tests.benchmarks.report import Row, at_most, difference, percentile
from tests.benchmarks.rounds import Plan, interleaved
from tests.benchmarks.servers import Server, Variant, servers
from tests.benchmarks.wire import Client

_OVER_FLOOR_MS = 0.3


async def _call_p50(server: Server, calls: int) -> float:
    """The median time until the result is here, in a handshake-era session."""
    took = []
    async with await Client.open(server.endpoint) as client:
        for _ in range(calls):
            answer = (await client.call("quick")).check(0, ids=server.ids)
            took.append((answer.result_at() - answer.sent) / 1e6)
    return percentile(took, 0.5)


async def single_calls(plan: Plan) -> list[Row]:
    """The added p50 of a tool call that returns at once, against the commit floor."""
    calls = plan.pick(200, 500)
    floors: dict[Variant, list[float]] = {v: [] for v in (Variant.NORMAL, Variant.FULL)}

    async def take(server: Server) -> float:
        if server.variant in floors:
            driver = BareDriver(plan.where.directory / f"floor-{server.variant}.db", server.variant)
            # A call's commit comes about so long after the last one's.
            floors[server.variant].append(await floor_ms(driver, calls, 0.002))
            driver.close()
        return await _call_p50(server, calls)

    async with servers(plan.where, "sdk", plan.all()) as running:
        taken = await interleaved(plan, running, take)
    rows = []
    for variant in plan.ours():
        added = difference(taken[variant], taken[Variant.BARE])
        floor = median(floors.get(variant) or floors[Variant.NORMAL])
        target, met = at_most(round(floor + _OVER_FLOOR_MS, 3))(added)
        rows.append(
            Row(
                "added p50 of a call that returns at once",
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
                },
            )
        )
    return rows
