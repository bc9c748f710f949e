"""SQLite's own wake-ups: one thread that asks `PRAGMA data_version`."""

import threading
from pathlib import Path

import pytest

from mcp_persist_middleware.stores.sqlite.log import SqliteLog
from mcp_persist_middleware.testing.contract.builders import (
    add,
    ending,
    events,
    new,
    record,
    settle,
    subscribed,
)
from tests.contract.sqlite import direct
from tests.support import stores
from tests.support.scripted import until
from tests.support.stores import Store

pytestmark = pytest.mark.timeout(30)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A file of this test's own."""
    return stores.sqlite(tmp_path, str)


def _pollers() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name == "mcp-persist-data-version"]


async def test_one_poller_serves_all_readers_and_none_runs_without_them(log: SqliteLog) -> None:
    assert not _pollers()
    subscriptions = [log.wakeups.subscribe(record().id) for _ in range(300)]
    assert len(_pollers()) == 1
    for subscription in subscriptions:
        subscription.close()
    await until(lambda: not _pollers())


async def test_a_commit_to_another_stream_wakes_nobody(log: SqliteLog, other: SqliteLog) -> None:
    stream, busy = record(), record()
    await log.append([new(stream), new(busy)])
    with subscribed(other, stream) as subscription, subscribed(other, busy) as witness:
        await subscription.wait()  # every subscription begins with a look,
        await subscription.wait()  # and the poller with what it had not seen
        await settle(witness)
        for number in range(1, 10):
            await log.append([add(busy, *events(number, 1))])
            await witness.wait()
        assert not subscription._notified


async def test_readers_are_woken_in_a_file_that_took_the_place_of_a_deleted_one(
    log: SqliteLog, other: SqliteLog
) -> None:
    stream = record()
    with subscribed(other, stream) as subscription:
        await settle(subscription)
        for path in log._path.parent.glob("events.db*"):
            if "worker" not in path.name:
                path.unlink()
        replacement = SqliteLog(log._url, log._path, prefix="mcp_", timeout=5.0)
        await replacement.open("three")
        try:
            await settle(subscription)
            await replacement.append([new(stream, *events(1, 1))])
            await subscription.wait()
        finally:
            await replacement.aclose()


async def test_readers_look_by_themselves_while_the_poller_has_no_database(
    log: SqliteLog, other: SqliteLog, caplog: pytest.LogCaptureFixture
) -> None:
    stream = record()
    moved = log._path.with_name("moved")
    with subscribed(other, stream) as subscription:
        await settle(subscription)
        log._path.rename(moved)
        for _ in range(3):
            await subscription.wait()
        moved.rename(log._path)
        await until(lambda: not other.wakeups._poller._failing)
        await settle(subscription)
        await log.append([new(stream, *events(1, 1))])
        await subscription.wait()
    assert sum("No wake-ups for now" in text for text in caplog.messages) == 1


async def test_the_poller_cannot_write_and_finds_its_rows_by_an_index(log: SqliteLog) -> None:
    streams = [record(session=f"s{n}") for n in range(50)]
    await log.append([new(s, *events(1, 20), ending=ending(20)) for s in streams])
    with direct(log._path) as outside:
        outside.execute("ANALYZE")
        sql = log._wakeups._select.format(rows="(?), (?)")
        steps = [row[3] for row in outside.execute("EXPLAIN QUERY PLAN " + sql, [b"a", b"b"])]
    searches = [step for step in steps if "SEARCH" in step]
    assert len(searches) == 4
    assert all("PRIMARY KEY" in step or "COVERING INDEX" in step for step in searches)
    assert not any(step.startswith("SCAN mcp_") or "TEMP B-TREE" in step for step in steps)
