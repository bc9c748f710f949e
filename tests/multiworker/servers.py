"""Two server processes on one store."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.support.processes import ServerProcess, mcp_server, running
from tests.support.stores import Store


@asynccontextmanager
async def two_servers(
    directory: Path, *, store: Store | None = None, **settings: object
) -> AsyncIterator[tuple[ServerProcess, ServerProcess]]:
    """Both started; at the end neither has anything to complain of."""
    one = mcp_server(directory, name="one", settings=settings, store=store)
    two = mcp_server(directory, name="two", settings=settings, store=store)
    async with running(one), running(two):
        yield one, two
    assert not one.complaints
    assert not two.complaints
