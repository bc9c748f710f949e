"""A child whose client goes away as it begins keeps nothing of what others need."""

import asyncio
import sys
from typing import Any, cast

import pytest

from mcp_persist_middleware.ops.proxy.breaker import CircuitBreaker, State
from mcp_persist_middleware.ops.proxy.stdio import pool, process
from mcp_persist_middleware.ops.proxy.stdio.options import StdioOptions
from mcp_persist_middleware.ops.proxy.stdio.pool import Children
from mcp_persist_middleware.ops.proxy.stdio.process import ChildLog, Process, started
from mcp_persist_middleware.supervision import Supervisor


async def test_who_is_cancelled_while_it_tries_lets_the_next_one_try(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def never(*_: object) -> Any:
        await asyncio.Event().wait()

    monkeypatch.setattr(pool, "started", never)
    children = Children([sys.executable, "-c", ""], StdioOptions())
    children.breaker = CircuitBreaker(1, 0.0)
    children.breaker.failed()
    trying = asyncio.create_task(children.begin(is_session=True))
    await asyncio.sleep(0.01)
    assert children.breaker.state is State.HALF_OPEN
    trying.cancel()
    await asyncio.wait({trying})
    try:
        assert children.breaker.admits()
    finally:
        await children.aclose()


class Guard:
    """One that cannot be told of a child."""

    async def add(self, _: int) -> None:
        raise OSError("too many open files")

    def remove(self, _: int) -> None:
        """It knew of none."""


async def test_a_child_that_nobody_is_told_of_is_ended() -> None:
    tasks, options = Supervisor(), StdioOptions(stop_timeout=0.1)
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    made: list[Process] = []

    class Known(Process):
        """One that the test knows of."""

        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            made.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(process, "Process", Known)
        said = cast(ChildLog, lambda *_: None)
        with pytest.raises(OSError, match="too many"):
            await started(command, options, cast(Any, Guard()), said, tasks)
    try:
        assert await made[0].ended(3)
    finally:
        await made[0].stop()
        await tasks.aclose()
