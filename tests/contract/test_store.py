"""The store itself: what survives, who may read it, what it refuses."""

import asyncio
from pathlib import Path

import pytest
from sqlalchemy import text

from mcp_persist_middleware.errors import SchemaVersionError
from mcp_persist_middleware.log.base import EventLog
from mcp_persist_middleware.testing.contract.builders import Factory
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


async def test_a_newer_schema_is_refused(make_log: Factory, store: Store) -> None:
    first = make_log()
    await first.open("one")
    await first.aclose()
    async with store.connected() as outside:
        await outside.execute(text("UPDATE mcp_meta SET value = :new"), {"new": b"999"})
    late = make_log()
    with pytest.raises(SchemaVersionError, match="999"):
        await late.open("two")
    async with store.connected() as outside:
        await outside.execute(text("UPDATE mcp_meta SET value = :old"), {"old": b"1"})
    await first.open("one")
    assert (await first.workers()).keys() == {"one"}, "who was refused has left nothing behind"
    await first.aclose()
