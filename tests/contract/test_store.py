"""The store itself: what survives, who may read it, what it refuses."""

import stat
from pathlib import Path

import pytest

from mcp_persist_middleware.errors import SchemaVersionError, StoreError, StoreUnavailableError
from mcp_persist_middleware.log import connect
from mcp_persist_middleware.log.base import EventLog
from mcp_persist_middleware.log.sqlite import SqliteLog
from mcp_persist_middleware.settings import Settings
from tests.contract.builders import ALL, COMMITTED, add, direct, ending, events, new, record
from tests.contract.conftest import Factory
from tests.support.stores import STORES, Store


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
    return STORES[store.name](tmp_path / "elsewhere", request.getfixturevalue)


async def test_the_secret_is_shared_on_a_store_and_differs_between_stores(
    log: EventLog, other: EventLog, elsewhere: Store
) -> None:
    assert log.secret == other.secret
    assert len(log.secret) >= 32
    foreign = connect.make_log(Settings.load(elsewhere.settings))
    await foreign.open("one")
    assert foreign.secret != log.secret
    await foreign.aclose()


async def test_a_ping_writes_nothing_and_returns(log: EventLog) -> None:
    await log.ping()
    assert (await log.purge(10.0**12, 100)).streams == 0


async def test_a_newer_schema_is_refused(make_log: Factory) -> None:
    first = make_log()
    await first.open("one")
    await first.aclose()
    assert isinstance(first, SqliteLog)
    with direct(first._path) as outside:
        outside.execute("UPDATE mcp_meta SET value = x'393939' WHERE name = 'version'")
    late = make_log()
    with pytest.raises(SchemaVersionError, match="999"):
        await late.open("two")
    assert late.is_gone("two")


async def test_only_the_owner_may_read_the_files(log: SqliteLog) -> None:
    await log.append([new(record(), *events(1, 1))])
    found = list(log._path.parent.glob("events.db*"))
    assert len(found) >= 3
    for path in found:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_the_file_can_shrink_and_is_in_wal_mode(log: SqliteLog) -> None:
    with direct(log._path) as outside:
        assert outside.execute("PRAGMA auto_vacuum").fetchone() == (2,)
        assert outside.execute("PRAGMA journal_mode").fetchone() == ("wal",)


async def test_a_file_that_is_no_database_is_refused_with_what_to_do(
    make_log: Factory, tmp_path: Path
) -> None:
    (tmp_path / "events.db").write_bytes(b"not a database, but long enough to be read" * 100)
    with pytest.raises(StoreUnavailableError, match="is a SQLite database"):
        await make_log().open("one")


async def test_a_deleted_file_is_an_error_and_then_a_new_store(log: SqliteLog) -> None:
    await log.append([new(record())])
    for path in log._path.parent.glob("events.db*"):
        if "worker" not in path.name:
            path.unlink()
    stream = record()
    with pytest.raises(StoreError, match="deleted or replaced"):
        await log.append([new(stream, *events(1, 1))])
    assert await log.append([new(stream, *events(1, 1))]) == [COMMITTED]
    assert await log.find(stream.id) == stream
