"""A writer whose worker has lost its lease closes at once, whatever waits."""

import asyncio

import pytest

from mcp_persist_middleware.log.writer import Writer
from mcp_persist_middleware.testing.memory import MemoryLog, Shelf
from tests.contract.lanes import fresh


async def test_a_writer_closes_that_may_not_write_and_has_something_left() -> None:
    asked, held = 0, True

    def may_write() -> bool:
        nonlocal asked
        asked += 1
        if asked > 1000:
            pytest.fail("it asks again and again, and holds the event loop")
        return held

    writer = Writer(MemoryLog(Shelf()), 1, may_write)
    writer.start()
    await asyncio.sleep(0.01)
    held = False
    stream = fresh()
    writer.open(stream)
    writer.hurry(stream)
    await asyncio.sleep(0.01)
    async with asyncio.timeout(5):
        await writer.aclose(0.1)
