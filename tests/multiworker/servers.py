"""Two server processes on one SQLite file."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.support.processes import ServerProcess, mcp_server, running


@asynccontextmanager
async def two_servers(
    directory: Path, **settings: object
) -> AsyncIterator[tuple[ServerProcess, ServerProcess]]:
    """Both started; at the end neither has anything to complain of."""
    one = mcp_server(directory, name="one", settings=settings)
    two = mcp_server(directory, name="two", settings=settings)
    async with running(one), running(two):
        yield one, two
    assert not one.complaints
    assert not two.complaints
