"""What a session, its own stream, and a call whose client has left cost in memory."""

import asyncio

from tests.benchmarks.contenders import BARE, Contender
from tests.benchmarks.report import Taken
from tests.benchmarks.rounds import Plan
from tests.benchmarks.servers import Server
from tests.benchmarks.wire import Client, Connection, listen

_WAVE = 25
_BOUND = 60.0
_MANY = 1 << 20


async def _settled(server: Server, *, idle: int = 0, sockets: int = _MANY) -> None:
    """Wait until so many calls are idle and no more sockets than these are open."""
    async with asyncio.timeout(_BOUND):
        while True:
            stats = await server.stats()
            if stats["idle"] >= idle and stats["sockets"] <= sockets:
                return
            await asyncio.sleep(0.005)


async def _resident(server: Server) -> int:
    return (await server.stats(settle=True))["rss"]


# Calls.


async def _wave(server: Server) -> list[Connection]:
    """Start idle tool calls of one session, each on a connection of its own."""
    connections = []
    async with await Client.open(server.endpoint) as client:
        for _ in range(_WAVE):
            connection = await Connection.open(server.port)
            connection.start(client.request("idle", {}))
            connections.append(connection)
    return connections


async def _weigh_calls(server: Server, number: int, *, stay: bool) -> float:
    """KiB per idle call, made in waves: the clients of a wave stay, or leave before the next.

    What a process once had for clients it keeps as free memory; with waves a call that is left
    alone is not charged for the connection it had.
    """
    # What the first streams of a process allocate is not what a stream costs.
    staying = await _wave(server)
    await _settled(server, idle=_WAVE)
    before = await server.stats(settle=True)
    for wave in range(2, 2 + number // _WAVE):
        connections = await _wave(server)
        await _settled(server, idle=wave * _WAVE)
        if stay:
            staying += connections
        else:
            _leave(connections)
            await _settled(server, idle=wave * _WAVE, sockets=before["sockets"] + 1)
    after = await _resident(server)
    _leave(staying)
    return (after - before["rss"]) / 1024 / (number // _WAVE * _WAVE)


def _leave(connections: list[Connection]) -> None:
    for connection in connections:
        connection.close()


async def idle_calls(plan: Plan) -> list[Taken]:
    """KiB of a call whose client has left, over an idle call of the bare application.

    The bare application has no detached streams, so its clients stay connected; what it keeps
    of a call whose client has left (the tool, without its stream) is compared for information.
    """
    ours, number = plan.ours[0], plan.pick(400, 800)
    cases = ((ours, False), (BARE, True), (BARE, False))
    taken: dict[tuple[Contender, bool], list[float]] = {case: [] for case in cases}
    for _ in range(plan.rounds):
        for contender, stay in cases:
            async with plan.servers.one("sdk", contender) as server:
                taken[contender, stay].append(await _weigh_calls(server, number, stay=stay))
    left = taken[ours, False]
    return [
        Taken("detached", ours, left, taken[BARE, True]),
        Taken("detached-left", ours, left, taken[BARE, False]),
    ]


# Sessions.


async def _weigh_sessions(server: Server, number: int) -> list[float]:
    """KiB per session that nobody uses, then KiB per stream that each of them is given."""
    _leave(await _listening(server, await _sessions(server, _WAVE)))
    begin = await _resident(server)
    sessions = await _sessions(server, number)
    between = await _resident(server)
    connections = await _listening(server, sessions)
    end = await _resident(server)
    _leave(connections)
    return [(between - begin) / 1024 / number, (end - between) / 1024 / number]


async def _sessions(server: Server, number: int) -> list[bytes]:
    made = []
    for _ in range(number):
        async with await Client.open(server.endpoint) as client:
            made.append(client.session)
    return made


async def _listening(server: Server, sessions: list[bytes]) -> list[Connection]:
    connections = []
    for session in sessions:
        connection = await Connection.open(server.port)
        connection.start(listen(server.endpoint, session))
        await connection.head()
        connections.append(connection)
    return connections


async def idle_sessions(plan: Plan) -> list[Taken]:
    """KiB of an idle session, and of an idle GET stream, over the bare application's."""
    # Of one address the default keeps a thousand.
    number = plan.pick(400, 900)
    rounds = []
    for _ in range(plan.rounds):
        each = []
        for contender in (BARE, plan.ours[0]):
            async with plan.servers.one("sdk", contender) as server:
                each.append(await _weigh_sessions(server, number))
        rounds.append(each)
    return [
        Taken(goal, plan.ours[0], [ours[i] for _, ours in rounds], [bare[i] for bare, _ in rounds])
        for i, goal in enumerate(("session", "listener"))
    ]
