"""What SQLite alone promises: of its file, its locks and its modes."""

import dataclasses
import sqlite3
import stat
import time
from pathlib import Path
from typing import Any

import pytest

from mcp_persist_middleware.errors import StoreError, StoreUnavailableError, UnreadableRowError
from mcp_persist_middleware.model import (
    EnqueueResult,
    Event,
    EventKind,
    RelayRequest,
    StreamKind,
    StreamRecord,
)
from mcp_persist_middleware.stores.sqlite import engine as sqlite_engine
from mcp_persist_middleware.stores.sqlite.batch import SqliteBatch
from mcp_persist_middleware.stores.sqlite.log import SqliteLog
from mcp_persist_middleware.stores.sqlite.workers import WorkerLocks
from mcp_persist_middleware.testing.contract.builders import (
    COMMITTED,
    REJECTED,
    Factory,
    add,
    ending,
    events,
    new,
    numbers,
    record,
    session,
)
from tests.contract.sqlite import direct
from tests.support import stores
from tests.support.scripted import late
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


async def test_a_stream_that_goes_on_while_retention_looks_for_others_is_not_removed(
    make_log: Factory, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = make_log()
    await log.open("one")
    stream = dataclasses.replace(record(), kind=StreamKind.GET)
    await log.append([new(stream, *events(1, 2), ending=ending(2, expires_at=1.0))])
    remove = log._reads._remove
    with direct(log._path) as outside:

        def goes_on_first(*arguments: Any) -> Any:
            write = add(stream, epoch=2, takes_over=1, worker="two")
            assert SqliteBatch(log._statements, [write])(outside) == [COMMITTED]
            return remove(*arguments)

        monkeypatch.setattr(log._reads, "_remove", goes_on_first)
        assert (await log.purge(2.0, 1000)).streams == 0
    assert await numbers(log, stream) == [1, 2]
    assert await log.find(stream.id) == dataclasses.replace(stream, epoch=2, worker="two")
    await log.aclose()


@pytest.mark.parametrize(("after", "streams"), [("_remove", 20), ("purge", 30)])
async def test_what_a_step_removed_before_the_file_was_locked_is_told(
    make_log: Factory, monkeypatch: pytest.MonkeyPatch, after: str, streams: int
) -> None:
    """The lock comes after its first transaction, or before pages go back."""
    log = make_log()
    log._timeout = 1.0
    await log.open("one")
    end = ending(1, expires_at=1.0)
    await log.append([new(record(), *events(1, 1), ending=end) for _ in range(30)])
    work = getattr(log._reads, after)
    with direct(log._path) as outside:

        def locked_then(*arguments: Any) -> Any:
            done = work(*arguments)
            if not outside.in_transaction:
                outside.execute("BEGIN IMMEDIATE")
            return done

        monkeypatch.setattr(log._reads, after, locked_then)
        purged = await log.purge(2.0, 1000)
        assert (purged.streams, purged.events, purged.more) == (streams, streams, True)
        with pytest.raises(StoreError, match="locked"):
            await log.purge(2.0, 1000)
        outside.execute("ROLLBACK")
    monkeypatch.undo()
    purged = await log.purge(2.0, 1000)
    assert (purged.streams, purged.more) == (30 - streams, False)
    await log.aclose()


async def test_a_step_of_retention_does_not_outlast_the_time_out(
    log: SqliteLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often it waits for the lock, what it removed is told."""
    end = ending(1, expires_at=1.0)
    await log.append([new(record(), *events(1, 1), ending=end) for _ in range(45)])
    monkeypatch.setattr(log, "_timeout", 1.0)
    remove = log._reads._remove

    def slow(*arguments: Any) -> Any:
        time.sleep(0.4)
        return remove(*arguments)

    monkeypatch.setattr(log._reads, "_remove", slow)
    told = [await log.purge(2.0, 1000) for _ in range(3)]
    assert [(purged.streams, purged.more) for purged in told] == [
        (20, True),
        (20, True),
        (5, False),
    ]


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


async def test_a_damaged_stream_that_has_expired_keeps_no_other_from_being_removed(
    make_log: Factory, log: SqliteLog, caplog: pytest.LogCaptureFixture
) -> None:
    streams = [named(n) for n in range(30)]
    for stream in streams:
        long = tuple(Event(n, 1, EventKind.MESSAGE, b"%d." % n * 500) for n in range(1, 9))
        await log.append([new(stream, *long, ending=ending(8, expires_at=1.0))])
    await log.aclose()
    damage(log._path, streams[3].id)
    damage(log._path, streams[17].id)
    opened = make_log()
    await opened.open("two")
    try:
        streams_gone = 0
        for _ in range(10):
            purged = await opened.purge(2.0, 1000)
            streams_gone += purged.streams
            if not purged.more:
                break
        assert streams_gone == 30
        assert [await opened.find(stream.id) for stream in streams] == [None] * 30
        assert caplog.text.count("The store is damaged") >= 2
        fresh = named(99)
        assert await opened.append([new(fresh, *events(1, 3))]) == [COMMITTED]
        assert await numbers(opened, fresh) == [1, 2, 3]
    finally:
        await opened.aclose()


async def test_a_damaged_stream_is_no_other_streams_trouble(
    make_log: Factory, log: SqliteLog
) -> None:
    good, bad, late = named(1), named(2), named(3)
    long = tuple(Event(n, 1, EventKind.MESSAGE, b"%d." % n * 500) for n in range(1, 30))
    await log.append([new(each, *long) for each in (good, bad, late)])
    await log.aclose()
    damage(log._path, bad.id)
    opened = make_log()
    await opened.open("two")
    try:
        batch = [add(bad, *events(20, 1)), add(late, *events(30, 2)), new(named(9), *events(1, 1))]
        assert await opened.append(batch) == [REJECTED, COMMITTED, COMMITTED]
        assert (await numbers(opened, late, 20))[-1] == 31
        with pytest.raises(UnreadableRowError, match="malformed"):
            await numbers(opened, bad)
    finally:
        await opened.aclose()


async def test_who_waits_for_a_file_to_enter_wal_mode_does_not_hold_the_event_loop(
    make_log: Factory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_engine, "_WAL_PAUSE", 0.3)
    enter, tries = sqlite_engine._enter_wal, []

    class Busy:
        """Says twice that it is locked."""

        def __init__(self, connection: Any) -> None:
            self._connection = connection

        def execute(self, statement: str) -> Any:
            tries.append(statement)
            if len(tries) < 3:
                raise sqlite3.OperationalError("database is locked")
            return self._connection.execute(statement)

    monkeypatch.setattr(sqlite_engine, "_enter_wal", lambda raw: enter(Busy(raw)))
    opened = make_log()
    async with late() as rounds:
        await opened.open("one")
    await opened.aclose()
    assert len(tries) >= 3
    assert max(rounds) < 0.25


async def test_nothing_that_was_deleted_is_left_in_the_file(log: SqliteLog) -> None:
    secrets = [b"secret-%d" % n for n in range(4)]
    made = dataclasses.replace(
        session(expires_at=time.time() + 60), initialize=secrets[0], home="one"
    )
    assert await log.sessions.create(made)
    uris = (secrets[1].decode(), "a://" + "x" * 9000)
    await log.sessions.note(dataclasses.replace(made, subscriptions=uris))
    until = time.time() + 60
    relayed = RelayRequest(b"l" * 16, made.key, "one", 1, until, secrets[2] * 1000, sealed=False)
    assert await log.inbox.put(relayed, 10) is EnqueueResult.ENQUEUED
    await log.inbox.claim("one", 10, 0.0, until)
    assert await log.inbox.answer(relayed.id, "one", secrets[3] * 1000, until)
    with direct(log._path) as outside:
        outside.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    content = log._path.read_bytes()
    assert [secret for secret in secrets if secret not in content] == [secrets[2]]
    await log.inbox.remove([relayed.name])
    await log.sessions.delete(made.key, until)
    with direct(log._path) as outside:
        outside.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    content = log._path.read_bytes()
    assert [secret for secret in secrets if secret in content] == []


@pytest.mark.parametrize("name", ["events.db", "events[1]*.db"])
def test_the_processes_on_a_file_find_each_other_and_clear_away_the_dead(
    tmp_path: Path, name: str
) -> None:
    one, other, dead = (WorkerLocks(tmp_path / name) for _ in range(3))
    (tmp_path / f"{name}-worker-dead").touch()
    one.acquire("one")
    assert not one.has_others
    other.acquire("other")
    assert one.has_others
    assert [dead.is_held(worker) for worker in ("one", "other", "dead")] == [True, True, False]
    other.release()
    assert not one.has_others
    one.release()
    assert list(tmp_path.iterdir()) == []


def named(number: int) -> StreamRecord:
    """A stream whose events lie behind those of lower numbers."""
    return dataclasses.replace(record(), id=bytes([number]) * 16)


def damage(path: Path, stream: bytes) -> None:
    """Overwrite the pages on which the stream's events are."""
    content = bytearray(path.read_bytes())
    with direct(path) as outside:
        ((size,), (root,)) = (
            outside.execute("PRAGMA page_size").fetchone(),
            outside.execute(
                "SELECT rootpage FROM sqlite_master WHERE name = 'mcp_event'"
            ).fetchone(),
        )
    for number in range(len(content) // size):
        page = content[number * size : (number + 1) * size]
        # A leaf of an index, as tables without a rowid are kept.
        if page[0] == 10 and page.count(stream) > 1 and number + 1 != root:
            content[number * size : (number + 1) * size] = b"\xff" * size
    path.write_bytes(bytes(content))


async def test_however_many_streams_cannot_be_read_the_next_one_is_listed(log: SqliteLog) -> None:
    made = sorted((record() for _ in range(1200)), key=lambda stream: stream.id)
    for start in range(0, len(made), 400):
        await log.append([new(stream) for stream in made[start : start + 400]])
    with direct(log._path) as outside:
        outside.execute("UPDATE mcp_stream SET state = 77 WHERE id < ?", (made[-1].id,))
    (found,) = await log.streams(b"", 1)
    assert found.id == made[-1].id
