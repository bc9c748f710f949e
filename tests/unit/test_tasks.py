"""Who owns a task decides when it ends."""

import asyncio

import pytest

from mcp_persist_middleware.supervision import Tasks, scoped


async def test_a_task_of_a_block_ends_with_the_block_whatever_ends_that() -> None:
    with pytest.raises(ValueError, match="left"), scoped(asyncio.Event().wait(), "beside") as task:
        raise ValueError("left")
    assert task.get_name() == "beside"
    await asyncio.wait({task}, timeout=10)
    assert task.cancelled()


async def test_what_has_to_be_whole_is_finished_though_its_caller_is_cancelled() -> None:
    tasks, may_end, ended = Tasks("work"), asyncio.Event(), False

    async def work() -> None:
        nonlocal ended
        await may_end.wait()
        ended = True

    async def call() -> None:
        await tasks.whole(work())

    caller = asyncio.create_task(call())
    await asyncio.sleep(0)
    caller.cancel()
    await asyncio.wait({caller})
    assert caller.cancelled()
    assert len(tasks) == 1
    await tasks.ended(0)
    assert not ended, "nobody waits for it for longer than was said"
    may_end.set()
    await tasks.ended(10)
    assert ended
    assert not tasks


async def test_tasks_that_are_cancelled_are_not_kept() -> None:
    tasks = Tasks("work")
    for _ in range(3):
        tasks.begin(asyncio.Event().wait())
    assert len(tasks) == 3
    tasks.cancel()
    await tasks.ended(10)
    assert not tasks
