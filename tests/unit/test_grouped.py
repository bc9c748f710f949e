"""What many ask for at once is done together, and each gets what it has asked for."""

import asyncio
import contextvars
from collections.abc import Sequence

import pytest

from mcp_persist_middleware.errors import StoreError
from mcp_persist_middleware.grouped import Grouped
from mcp_persist_middleware.supervision import Tasks

_who = contextvars.ContextVar("who", default="nobody")


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


def late() -> Exception:
    return StoreError(url="memory", reason="no answer in time")


def gathering(server: Server, tasks: Tasks, seconds: float = 20.0) -> Grouped[str, str]:
    """Nobody waits longer than so."""
    return Grouped(server.step, tasks, seconds, late)


async def turns() -> None:
    """Let everything run that can."""
    for _ in range(10):
        await asyncio.sleep(0)


async def busy() -> tuple[Server, Grouped[str, str], Tasks, list[asyncio.Task[str]]]:
    """As many steps on their way as may be, and three callers behind them."""
    server, tasks = Server(), Tasks("grouped")
    grouped = gathering(server, tasks)
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
    server.gates[0].set_result(None)
    await turns()
    callers[2].cancel()
    assert server.steps[2:] == [["c", "bad", "e"]]
    for gate in server.gates[1:]:
        gate.set_result(None)
    found = await asyncio.gather(*callers, return_exceptions=True)
    assert [type(each) for each in found[2:4]] == [asyncio.CancelledError, ValueError]
    assert [found[0], found[1], found[4]] == ["a", "b", "e"]
    await tasks.ended(5)
    assert not len(tasks)


async def test_who_asks_again_as_all_steps_end_at_once_is_not_left_waiting() -> None:
    server, tasks = Server(), Tasks("grouped")
    grouped = gathering(server, tasks)

    async def twice() -> str:
        return await grouped.run(await grouped.run("a"))

    asking = asyncio.create_task(twice())
    await turns()
    other = asyncio.create_task(grouped.run("b"))
    await turns()
    for gate in list(server.gates):
        gate.set_result(None)
    await turns()
    assert server.steps == [["a"], ["b"], ["a"]]
    server.gates[2].set_result(None)
    assert await asyncio.gather(asking, other) == ["a", "b"]
    await tasks.ended(5)


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


async def test_who_waits_behind_steps_that_are_cancelled_is_cancelled_too() -> None:
    _, _, tasks, callers = await busy()
    tasks.cancel()
    done, _ = await asyncio.wait(callers, timeout=5)
    assert [each.cancelled() for each in done] == [True] * 5


async def test_a_step_that_is_cancelled_before_it_began_is_not_counted_for_ever() -> None:
    server, tasks = Server(), Tasks("grouped")
    grouped = gathering(server, tasks)
    for name in ("a", "b"):
        caller = asyncio.create_task(grouped.run(name))
        await asyncio.sleep(0)
        tasks.cancel()
        await asyncio.wait([caller], timeout=5)
        assert caller.cancelled()
    later = asyncio.create_task(grouped.run("c"))
    await turns()
    server.gates[0].set_result(None)
    assert await later == "c"


async def test_what_was_taken_back_before_its_step_is_done_only_if_it_has_to_be() -> None:
    server, grouped, _, callers = await busy()
    certain = asyncio.create_task(grouped.run("certain", certain=True))
    await turns()
    for caller in (callers[2], certain):
        caller.cancel()
    server.gates[0].set_result(None)
    await turns()
    assert server.steps[2:] == [["bad", "e", "certain"]]


async def test_nobody_waits_longer_than_he_may_and_what_is_late_is_not_begun() -> None:
    server, tasks = Server(), Tasks("grouped")
    grouped = gathering(server, tasks, 0.1)
    callers = []
    for name in ("a", "b", "c"):
        callers.append(asyncio.create_task(grouped.run(name, certain=True)))
        await turns()
    found = await asyncio.wait_for(asyncio.gather(*callers, return_exceptions=True), 5)
    assert [type(each) for each in found] == [StoreError] * 3
    for gate in server.gates:
        gate.set_result(None)
    await tasks.ended(5)
    assert server.steps == [["a"], ["b"]]


async def test_what_is_done_for_several_is_done_in_the_name_of_none() -> None:
    seen: list[str] = []

    async def step(items: Sequence[str]) -> Sequence[str]:
        seen.append(_who.get())
        return items

    _who.set("ann")
    assert await Grouped(step, Tasks("grouped"), 20.0, late).run("a") == "a"
    assert seen == ["nobody"]


@pytest.mark.parametrize("count", [100, 300])
async def test_no_step_grows_without_bound(count: int) -> None:
    server, tasks = Server(), Tasks("grouped")
    grouped = gathering(server, tasks)
    callers = [asyncio.create_task(grouped.run(str(n))) for n in range(count)]
    for number in range(10):
        await turns()
        if number < len(server.gates):
            server.gates[number].set_result(None)
    assert await asyncio.gather(*callers) == [str(n) for n in range(count)]
    assert max(map(len, server.steps)) == min(count, 128)
