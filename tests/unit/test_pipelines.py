"""What many ask of Redis at once goes together, and each gets what it has asked for."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from mcp_persist_middleware.stores.redis.errors import RedisAwayError
from mcp_persist_middleware.stores.redis.pipelines import Pipelines
from mcp_persist_middleware.stores.redis.scripts import ScriptCall
from mcp_persist_middleware.supervision import Tasks


class Server:
    """Answers a call with its name, exchange by exchange, when it is let."""

    def __init__(self) -> None:
        self.exchanges: list[list[str]] = []
        self.gates: list[asyncio.Future[None]] = []

    async def exchange(self, calls: Sequence[ScriptCall]) -> list[Any]:
        self.exchanges.append([str(call.command[0]) for call in calls])
        self.gates.append(asyncio.get_running_loop().create_future())
        await self.gates[-1]
        return [call.command[0] for call in calls]


def asked(pipelines: Pipelines, *names: str) -> asyncio.Task[list[Any]]:
    return asyncio.create_task(pipelines.run([ScriptCall((name,)) for name in names]))


async def turns() -> None:
    """Let everything run that can."""
    for _ in range(10):
        await asyncio.sleep(0)


async def busy() -> tuple[Server, Pipelines, Tasks, list[asyncio.Task[list[Any]]]]:
    """As many exchanges on their way as may be, and three callers behind them."""
    server, tasks = Server(), Tasks("pipelines")
    pipelines = Pipelines(server.exchange, tasks)
    first = []
    for name in ("a", "b"):
        first.append(asked(pipelines, name))
        await turns()
    assert server.exchanges == [["a"], ["b"]]
    behind = [asked(pipelines, "c", "d"), asked(pipelines, "e"), asked(pipelines, "f", "g")]
    await turns()
    assert len(server.exchanges) == 2
    return server, pipelines, tasks, [*first, *behind]


async def test_what_comes_while_exchanges_are_on_their_way_goes_in_one_behind_them() -> None:
    server, _, tasks, callers = await busy()
    # One who leaves takes no reply of another's with it.
    callers[3].cancel()
    server.gates[0].set_result(None)
    await turns()
    assert server.exchanges[2:] == [["c", "d", "e", "f", "g"]]
    for gate in server.gates[1:]:
        gate.set_result(None)
    found = await asyncio.gather(*callers, return_exceptions=True)
    assert found[:3] == [["a"], ["b"], ["c", "d"]]
    assert isinstance(found[3], asyncio.CancelledError)
    assert found[4] == ["f", "g"]
    await tasks.ended(5)
    assert not len(tasks)


async def test_an_exchange_that_fails_fails_for_those_in_it_and_the_next_is_begun() -> None:
    server, pipelines, _, callers = await busy()
    server.gates[0].set_result(None)
    await turns()
    server.gates[2].set_exception(RedisAwayError("away"))
    server.gates[1].set_result(None)
    found = await asyncio.gather(*callers, return_exceptions=True)
    assert found[:2] == [["a"], ["b"]]
    assert [type(each) for each in found[2:]] == [RedisAwayError] * 3
    later = asked(pipelines, "h")
    await turns()
    server.gates[3].set_result(None)
    assert await later == ["h"]


@pytest.mark.parametrize("of_each", [100, 300])
async def test_no_exchange_grows_without_bound(of_each: int) -> None:
    server, tasks = Server(), Tasks("pipelines")
    pipelines = Pipelines(server.exchange, tasks)
    callers = [asked(pipelines, *(["x"] * of_each)) for _ in range(6)]
    for number in range(6):
        await turns()
        if number < len(server.gates):
            server.gates[number].set_result(None)
    assert await asyncio.gather(*callers) == [["x"] * of_each] * 6
    # A caller's own calls stay together.
    assert max(map(len, server.exchanges)) == (200 if of_each == 100 else 300)
