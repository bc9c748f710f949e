"""How long one request looks things up in the store, however many statements that takes: each has
a time of its own, and several in a row would have as many of them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from mcp_persist_middleware.errors import StoreError


@contextlib.asynccontextmanager
async def within(seconds: float | None, name: str) -> AsyncIterator[None]:
    """What looks in here has so long for all of it.

    Args:
        seconds: None for what does more than look: that is not broken off.
        name: of the store, for what is raised.

    Raises:
        StoreError: it took longer.
    """
    try:
        async with asyncio.timeout(seconds) as whole:
            yield
    except TimeoutError as error:
        if not whole.expired():
            raise
        reason = f"it has not told all that was asked in {seconds:g} s"
        raise StoreError(url=name, reason=reason) from error
