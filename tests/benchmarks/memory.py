"""What a stream costs in memory whose tool is idle and whose client has left."""

import asyncio
from statistics import median

from tests.benchmarks.report import Row, at_most, difference
from tests.benchmarks.rounds import Plan
from tests.benchmarks.servers import Server, Variant, servers
from tests.benchmarks.wire import Client, Connection

_WAVE = 25
_BOUND = 60.0
_MANY = 1 << 20


async def _settled(server: Server, *, idle: int, sockets: int) -> None:
    """Wait until so many calls are idle and no more sockets than these are open."""
    async with asyncio.timeout(_BOUND):
        while True:
            stats = await server.stats()
            if stats["idle"] >= idle and stats["sockets"] <= sockets:
                return
            await asyncio.sleep(0.005)


async def _wave(server: Server) -> list[Connection]:
    """Start idle tool calls of one session, each on a connection of its own."""
    connections = []
    async with await Client.open(server.endpoint) as client:
        for _ in range(_WAVE):
            connection = await Connection.open(server.port)
            connection.start(client.request("idle", {}))
            connections.append(connection)
    return connections


async def _weigh(server: Server, streams: int, *, stay: bool) -> float:
    """KiB per idle call, made in waves: the clients of a wave stay, or leave before the next.

    What a process once had for clients it keeps as free memory; with waves a call that is left
    alone is not charged for the connection it had.
    """
    # What the first streams of a process allocate is not what a stream costs.
    staying = await _wave(server)
    await _settled(server, idle=_WAVE, sockets=_MANY)
    before = await server.stats(settle=True)
    for number in range(2, 2 + streams // _WAVE):
        connections = await _wave(server)
        await _settled(server, idle=number * _WAVE, sockets=_MANY)
        if stay:
            staying += connections
        else:
            _leave(connections)
            await _settled(server, idle=number * _WAVE, sockets=before["sockets"] + 1)
    after = await server.stats(settle=True)
    _leave(staying)
    return (after["rss"] - before["rss"]) / 1024 / (streams // _WAVE * _WAVE)


def _leave(connections: list[Connection]) -> None:
    for connection in connections:
        connection.close()


async def idle_streams(plan: Plan) -> list[Row]:
    """KiB of a detached idle stream, over an idle call of the bare application.

    The bare application has no detached streams, so its clients stay connected; what it keeps
    of a call whose client has left (the tool, without its stream) is compared for information.
    """
    streams, ours = plan.pick(400, 1000), plan.ours(peer=False)[0]
    cases = [(Variant.BARE, True), (ours, False), (Variant.BARE, False), (ours, True)]
    taken: dict[tuple[Variant, bool], list[float]] = {case: [] for case in cases}
    for _ in range(plan.pick(1, 3)):
        for variant, stay in cases:
            async with servers(plan.where, "sdk", [variant]) as running:
                taken[variant, stay].append(await _weigh(running[0], streams, stay=stay))
    left = taken[ours, False]
    rows = []
    for name, stay in (("", True), (" (bare: client left)", False)):
        bare = taken[Variant.BARE, stay]
        target, met = at_most(16, " KiB")(result := difference(left, bare))
        detail = {"streams": streams, "ours_client_connected": median(taken[ours, True])}
        shown = (median(bare), median(left), result, target, met if stay else None, detail)
        rows.append(Row("memory per detached idle stream" + name, ours, "KiB", *shown))
    return rows
