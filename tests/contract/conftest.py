"""The stores under contract: all that `tests.support.stores` names. A test that looks into the SQL
of a store (`Store.rows`) passes over one that has no URL.

The stores of `tests.support.packaged` take part where they are asked for: `pytest -m packages`.
"""

import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from mcp_persist_middleware.log.base import EventLog
from mcp_persist_middleware.testing.contract.builders import Factory
from tests.contract.redis_builders import Place
from tests.contract.redis_pair import Pair, workers
from tests.support.packaged import PACKAGED, marked
from tests.support.stores import BESIDE, STORES, RedisServer, Store


@pytest.fixture(params=[*STORES, *BESIDE, *marked(*PACKAGED)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """A store of this test's own."""
    return (STORES | BESIDE | PACKAGED)[request.param](tmp_path, request.getfixturevalue)


@pytest.fixture
def make_log(store: Store) -> Factory:
    """Makes event logs on one and the same store, none of them open."""
    return store.make_log


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


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """A SQLite file and a Redis of this test's own."""
    server = RedisServer(tmp_path / "redis")
    server.start()
    yield Place(tmp_path, server)
    server.stop(signal.SIGKILL)


@pytest.fixture
async def pair(place: Place) -> AsyncIterator[Pair]:
    """Two workers on it."""
    async with workers(place) as made:
        yield made
