"""What many ask for at once is done together, and each gets what it has asked for."""

import asyncio
from collections.abc import Sequence

import pytest

from mcp_persist_middleware.errors import StoreError
from mcp_persist_middleware.grouped import Grouped
from mcp_persist_middleware.supervision import Tasks


class Server:
    """Does a piece by saying its name, step by step, when it is let; what is "bad" fails."""

    def __init__(self) -> None:
        self.steps: list[list[str]] = []
        self.gates: list[asyncio.Future[None]] = []

    async def step(self, items: Sequence[str]) -> list[str | Exception]:
        self.steps.append(list(items))
        self.gates.append(asyncio.get_running_loop().create_future())
        await self.gates[-1]
        return [ValueError(item) if item == "bad" else item for item in items]


async def turns() -> None:
    """Let everything run that can."""
    for _ in range(10):
        await asyncio.sleep(0)


async def busy() -> tuple[Server, Grouped[str, str], Tasks, list[asyncio.Task[str]]]:
    """As many steps on their way as may be, and three callers behind them."""
    server, tasks = Server(), Tasks("grouped")
    grouped = Grouped(server.step, tasks)
    callers = []
    for name in ("a", "b"):
        callers.append(asyncio.create_task(grouped.run(name)))
        await turns()
    assert server.steps == [["a"], ["b"]]
    callers += [asyncio.create_task(grouped.run(name)) for name in ("c", "bad", "e")]
    await turns()
    assert len(server.steps) == 2
    return server, grouped, tasks, callers


async def test_what_comes_while_steps_are_on_their_way_goes_in_one_behind_them() -> None:
    server, _, tasks, callers = await busy()
    # One who leaves takes no result of another's with it, and neither does one that fails.
    callers[2].cancel()
    server.gates[0].set_result(None)
    await turns()
    assert server.steps[2:] == [["c", "bad", "e"]]
    for gate in server.gates[1:]:
        gate.set_result(None)
    found = await asyncio.gather(*callers, return_exceptions=True)
    assert [type(each) for each in found[2:4]] == [asyncio.CancelledError, ValueError]
    assert [found[0], found[1], found[4]] == ["a", "b", "e"]
    await tasks.ended(5)
    assert not len(tasks)


async def test_a_step_that_fails_fails_for_those_in_it_and_the_next_is_begun() -> None:
    server, grouped, _, callers = await busy()
    server.gates[0].set_result(None)
    await turns()
    server.gates[2].set_exception(StoreError(url="memory", reason="away"))
    server.gates[1].set_result(None)
    found = await asyncio.gather(*callers, return_exceptions=True)
    assert found[:2] == ["a", "b"]
    assert [type(each) for each in found[2:]] == [StoreError] * 3
    later = asyncio.create_task(grouped.run("h"))
    await turns()
    server.gates[3].set_result(None)
    assert await later == "h"


async def test_who_waits_for_a_step_that_is_cancelled_is_cancelled() -> None:
    _, _, tasks, callers = await busy()
    tasks.cancel()
    found = await asyncio.gather(*callers[:2], return_exceptions=True)
    assert [type(each) for each in found] == [asyncio.CancelledError] * 2


@pytest.mark.parametrize("count", [100, 300])
async def test_no_step_grows_without_bound(count: int) -> None:
    server, tasks = Server(), Tasks("grouped")
    grouped = Grouped(server.step, tasks)
    callers = [asyncio.create_task(grouped.run(str(n))) for n in range(count)]
    for number in range(10):
        await turns()
        if number < len(server.gates):
            server.gates[number].set_result(None)
    assert await asyncio.gather(*callers) == [str(n) for n in range(count)]
    assert max(map(len, server.steps)) == min(count, 128)
