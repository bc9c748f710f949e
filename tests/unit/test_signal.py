"""A wake-up is never lost between the look at the condition and the wait."""

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_persist_middleware.wakeups.local import Signal


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from(["set", "turn", "join"]), max_size=30))
def test_whoever_looks_and_then_waits_sees_every_change(schedule: list[str]) -> None:
    async def run() -> None:
        signal, value, readers = Signal(), 0, []
        goal = schedule.count("set")

        async def reader() -> None:
            while value < goal:
                await signal.wait(3600)

        for step in ["join", *schedule]:
            if step == "join":
                readers.append(asyncio.create_task(reader()))
            elif step == "set":
                value += 1
                signal.notify()
            else:
                await asyncio.sleep(0)
        async with asyncio.timeout(5):
            await asyncio.gather(*readers)
        assert not signal._waiters

    asyncio.run(run())


async def test_a_wait_ends_by_itself_and_leaves_nothing_behind() -> None:
    signal = Signal()
    async with asyncio.timeout(5):
        await signal.wait(0.001)
    assert not signal._waiters


async def test_a_cancelled_wait_leaves_nothing_behind_and_wakes_the_others() -> None:
    signal = Signal()
    first, second = (asyncio.create_task(signal.wait(3600)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait([first])
    assert len(signal._waiters) == 1
    signal.notify()
    async with asyncio.timeout(5):
        await second
    assert not signal._waiters


async def test_a_notify_nobody_waits_for_is_not_remembered() -> None:
    signal = Signal()
    signal.notify()
    waiting = asyncio.create_task(signal.wait(3600))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not waiting.done()
    waiting.cancel()
    await asyncio.wait([waiting])
