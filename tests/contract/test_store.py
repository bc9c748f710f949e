"""The store itself: what survives, who may read it, what it refuses."""

from pathlib import Path

import pytest

from mcp_persist_middleware.log.base import EventLog
from tests.contract.builders import ALL, COMMITTED, add, ending, events, new, record
from tests.contract.conftest import Factory
from tests.support.packaged import PACKAGED
from tests.support.stores import BESIDE, STORES, Store


async def test_everything_is_there_after_it_was_closed_and_opened(make_log: Factory) -> None:
    first = make_log()
    await first.open("one")
    done, living = record(), record()
    await first.append([new(done, *events(1, 3), ending=ending(3)), new(living, *events(1, 2))])
    before = [await first.find(done.id), await first.find(living.id)]
    secret = first.secret
    await first.aclose()
    second = make_log()
    await second.open("two")
    try:
        assert [await second.find(done.id), await second.find(living.id)] == before
        assert tuple(await second.read(done.id, 0, *ALL)) == events(1, 3)
        assert await second.append([add(living, *events(3, 1))]) == [COMMITTED]
        assert second.secret == secret
    finally:
        await second.aclose()


@pytest.fixture
def elsewhere(store: Store, tmp_path: Path, request: pytest.FixtureRequest) -> Store:
    """Another store of the same kind."""
    (tmp_path / "elsewhere").mkdir()
    make = (STORES | BESIDE | PACKAGED)[store.name]
    return make(tmp_path / "elsewhere", request.getfixturevalue)


async def test_the_secret_is_shared_on_a_store_and_differs_between_stores(
    log: EventLog, other: EventLog, elsewhere: Store
) -> None:
    assert log.secret == other.secret
    assert len(log.secret) >= 32
    foreign = elsewhere.make_log()
    await foreign.open("one")
    assert foreign.secret != log.secret
    await foreign.aclose()


async def test_a_ping_writes_nothing_and_returns(log: EventLog) -> None:
    await log.ping()
    assert (await log.purge(10.0**12, 100)).streams == 0
