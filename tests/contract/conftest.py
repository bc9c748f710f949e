"""The stores under contract: all that `tests.support.stores.STORES` names."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from mcp_persist_middleware.log import connect
from mcp_persist_middleware.log.base import EventLog
from mcp_persist_middleware.settings import Settings
from tests.support.stores import STORES, Store

Factory = Callable[[], EventLog]


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """A store of this test's own."""
    return STORES[request.param](tmp_path, request.getfixturevalue)


@pytest.fixture
def make_log(store: Store) -> Factory:
    """Makes event logs on one and the same store, none of them open."""
    return lambda: connect.make_log(Settings.load(store.settings))


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
