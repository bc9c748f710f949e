"""Work that takes long, away from the event loop."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


async def away(work: Callable[[], T]) -> T:
    """What a function returns, in a thread of its own: the application may keep all of the event
    loop's busy, and nothing is left of this one."""
    pool = ThreadPoolExecutor(1, "mcp-persist-ops")
    try:
        return await asyncio.get_running_loop().run_in_executor(pool, work)
    finally:
        pool.shutdown(wait=False)


async def at_once(size: int, work: Callable[[], T]) -> T:
    """What a function returns, here: nobody waits for the event loop."""
    del size
    return work()
