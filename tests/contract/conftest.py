"""The stores under contract: all that `tests.support.stores.STORES` names.

Whoever writes an `EventLog` puts it through the same suite from a clone of this repository, with a
module of his own that names it (`test_custom_log.py` does so):

    # my_store.py
    from my_package import MyLog
    from tests.support.stores import BESIDE, STORES, Store

    STORES["mine"] = lambda directory, _: Store("mine", log=lambda: MyLog(directory))

    $ pytest -p my_store tests/contract -k mine

Every log that `Store.log` makes is on the same data. A test that looks into a store's SQL
(`Store.rows`) passes over one that has no URL.

The stores of `tests.support.packaged` take part where they are asked for: `pytest -m packages`.
"""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from mcp_persist_middleware.log.base import EventLog
from tests.support.packaged import PACKAGED, marked
from tests.support.stores import BESIDE, STORES, Store

Factory = Callable[[], EventLog]


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
