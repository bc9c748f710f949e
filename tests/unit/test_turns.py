"""Few connections are given to whoever has waited for one for longest."""

import asyncio

import pytest

from mcp_persist_middleware.errors import StoreError
from mcp_persist_middleware.stores.sql.turns import Turns


async def test_who_has_just_had_a_turn_waits_behind_those_who_wait() -> None:
    turns, order = Turns(1, 10, "store"), list[str]()

    async def take(who: str) -> None:
        async with turns.one():
            order.append(who)

    async with turns.one():
        waiting = asyncio.create_task(take("patient"))
        await asyncio.sleep(0)
    await take("hasty")
    await waiting
    assert order == ["patient", "hasty"]


async def test_who_waits_in_vain_is_told_and_takes_no_place() -> None:
    turns = Turns(1, 0.01, "store")
    async with turns.one():
        with pytest.raises(StoreError, match=r"no connection to it was free in 0.01 s"):
            async with turns.one():
                raise AssertionError
    async with turns.one():
        pass


async def test_without_a_limit_nobody_waits() -> None:
    turns = Turns(None, 0.0, "store")
    async with turns.one(), turns.one():
        pass
