"""What SQLite alone promises: of its file, its locks and its modes."""

import stat
from pathlib import Path

import pytest

from mcp_persist_middleware.errors import StoreError, StoreUnavailableError
from mcp_persist_middleware.log.sqlite.log import SqliteLog
from mcp_persist_middleware.model import Event, EventKind
from tests.contract.builders import COMMITTED, direct, ending, events, new, numbers, record
from tests.contract.conftest import Factory
from tests.support import stores
from tests.support.stores import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A file of this test's own."""
    return stores.sqlite(tmp_path, str)


async def test_a_writer_that_cannot_write_says_so_and_recovers(log: SqliteLog) -> None:
    stream = record()
    with direct(log._path) as outside:
        outside.execute("PRAGMA locking_mode = NORMAL")
        outside.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="locked"):
            await log.append([new(stream, *events(1, 1))])
        outside.execute("ROLLBACK")
    assert await log.append([new(stream, *events(1, 1))]) == [COMMITTED]
    assert await numbers(log, stream) == [1]


async def test_freed_pages_go_back_to_the_file_system(log: SqliteLog) -> None:
    stream = record()
    big = tuple(Event(n, 1, EventKind.MESSAGE, b"x" * 100_000) for n in range(1, 21))
    await log.append([new(stream, *big, ending=ending(20, expires_at=1.0))])
    steps = 0
    while (await log.purge(2.0, 1000)).more:
        steps += 1
        assert steps < 100
    with direct(log._path) as outside:
        assert outside.execute("PRAGMA freelist_count").fetchone() == (0,)


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
