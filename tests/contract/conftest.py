"""The stores under contract. A new one is one more line in `STORES`."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from sqlalchemy import URL

from mcp_persist_middleware.log.base import EventLog
from mcp_persist_middleware.log.sqlite import SqliteLog

Factory = Callable[[], EventLog]


def _sqlite(directory: Path) -> EventLog:
    url = URL.create("sqlite+aiosqlite", database=str(directory / "events.db"))
    return SqliteLog(url, prefix="mcp_", timeout=5.0)


STORES = {
    "sqlite": _sqlite,
}


@pytest.fixture(params=STORES)
def make_log(request: pytest.FixtureRequest, tmp_path: Path) -> Factory:
    """Makes event logs on one and the same store, none of them open."""
    return lambda: STORES[request.param](tmp_path)


@pytest.fixture
async def log(make_log: Factory) -> AsyncIterator[EventLog]:
    """An open log on a store of this test's own."""
    made = make_log()
    await made.open("one")
    yield made
    await made.aclose()


@pytest.fixture
async def other(make_log: Factory, log: EventLog) -> AsyncIterator[EventLog]:
    """Another worker's log on the same store."""
    made = make_log()
    await made.open("two")
    yield made
    await made.aclose()
