"""The store itself: what survives, who may read it, what it refuses."""

import asyncio
from pathlib import Path

import pytest

from mcp_persist_middleware.log.base import EventLog
from tests.support.packaged import PACKAGED
from tests.support.stores import BESIDE, STORES, Store


@pytest.fixture
def elsewhere(store: Store, tmp_path: Path, request: pytest.FixtureRequest) -> Store:
    """Another store of the same kind."""
    (tmp_path / "elsewhere").mkdir()
    make = (STORES | BESIDE | PACKAGED)[store.name]
    return make(tmp_path / "elsewhere", request.getfixturevalue)


async def test_the_secret_of_a_store_is_no_other_stores(log: EventLog, elsewhere: Store) -> None:
    foreign = elsewhere.make_log()
    await foreign.open("one")
    assert foreign.secret != log.secret
    await foreign.aclose()


async def test_a_check_is_done_beside_others_and_leaves_nothing(
    log: EventLog, other: EventLog, store: Store
) -> None:
    await asyncio.gather(*(each.check() for each in (log, other) for _ in range(3)))
    found = await store.rows("SELECT name FROM mcp_meta WHERE name LIKE 'check%'")
    assert found == []
