"""What a store keeps is bounded by number and by bytes, and what went for it is told."""

from pathlib import Path
from typing import Any

import pytest

from mcp_persist_middleware import Persistence
from mcp_persist_middleware.log import deletions
from mcp_persist_middleware.log.base import EventLog
from mcp_persist_middleware.log.deletions import Reason
from mcp_persist_middleware.maintenance.bounds import Bounds
from mcp_persist_middleware.maintenance.retention import RetentionLoop
from mcp_persist_middleware.model import Event, EventKind
from mcp_persist_middleware.persistence import access_to
from mcp_persist_middleware.settings import Settings
from mcp_persist_middleware.store import Deletion, StreamRecord
from mcp_persist_middleware.testing import MemoryLog, Shelf
from mcp_persist_middleware.testing.contract.builders import COMMITTED, add, ending, events, new
from mcp_persist_middleware.testing.contract.cases.erasing import aged, ids
from tests.support.stores import BESIDE, STORES, Store


@pytest.fixture(params=["sqlite", "postgres", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """A store of this test's own; a Redis in front has nothing of what has ended."""
    return (STORES | BESIDE)[request.param](tmp_path, request.getfixturevalue)


def bounds(log: EventLog, **given: Any) -> Bounds:
    """Those of these settings."""
    return Bounds(log, Settings.load({"url": "events.db", **given}, {}))


async def told(log: EventLog) -> set[tuple[str, str, str, int]]:
    """What was removed, without the time."""
    return {(e.reason, e.namespace, e.kind, e.count) for e in await log.deletions(100)}


async def kept(log: EventLog, count: int, frame: bytes = b"data: 1\r\n") -> list[StreamRecord]:
    """So many streams with two events each, all but the second of which have ended."""
    made = [aged(n) for n in range(1, count + 1)]
    written = [Event(n, 1, EventKind.MESSAGE, frame) for n in (1, 2)]
    endings = [None if n == 1 else ending(2, expires_at=10.0**12) for n in range(count)]
    for stream, end in zip(made, endings, strict=True):
        assert await log.append([new(stream, *written, ending=end)]) == [COMMITTED]
    return made


async def test_the_newest_ended_streams_of_each_namespace_stay(log: EventLog) -> None:
    made = await kept(log, 5)
    other = aged(9, namespace="free")
    await log.append([new(other, *events(1, 1), ending=ending(1, expires_at=10.0**12))])
    await bounds(log, max_kept_streams={"default": 2, "free": 0}).keep()
    assert await ids(log) == [made[1].id, made[3].id, made[4].id], "an open one is never removed"
    assert await told(log) == {
        ("count", "default", "streams", 2),
        ("count", "default", "events", 4),
        ("count", "free", "streams", 1),
        ("count", "free", "events", 1),
    }
    assert await log.append([add(made[1], *events(3, 1))]) == [COMMITTED]


async def test_a_stream_that_goes_in_several_steps_goes_whole(
    log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcp_persist_middleware.maintenance.removing._EVENTS", 2)
    long = aged(1)
    await log.append([new(long, *events(1, 7), ending=ending(7, expires_at=10.0**12))])
    await bounds(log, max_kept_streams=0).keep()
    assert await ids(log) == []
    assert await told(log) == {
        ("count", "default", "streams", 1),
        ("count", "default", "events", 7),
    }


async def test_the_bytes_of_a_namespace_are_bounded(log: EventLog) -> None:
    made = await kept(log, 5, b"x" * 1000)
    await bounds(log, max_kept_bytes={"default": "5kB", "free": None}).keep()
    assert await ids(log) == [made[1].id, made[3].id, made[4].id]
    assert {reason for reason, *_ in await told(log)} == {"bytes"}


async def test_of_a_store_that_is_too_large_the_oldest_ended_streams_go_first(
    log: EventLog,
) -> None:
    made = await kept(log, 6, b"x" * 200_000)
    most = await log.size() - 500_000
    keeping = bounds(log, max_store_bytes=max(most, 1 << 20))
    for _ in range(3):
        await keeping.keep()
    assert await log.size() <= most
    left = await ids(log)
    assert left == [made[1].id, *[each.id for each in made[-len(left) + 1 :]]]
    assert len(left) >= 3, "and no more of them than have to"
    assert {reason for reason, *_ in await told(log)} == {"store"}


async def test_two_workers_that_keep_a_bound_at_once_remove_the_same(
    log: EventLog, other: EventLog
) -> None:
    made = await kept(log, 8)
    mine, theirs = (bounds(each, max_kept_streams=3) for each in (log, other))
    beyond = await other.beyond("default", 3)
    await mine.keep()
    assert await other.beyond("default", 3) == b""
    assert beyond == made[4].id
    await theirs.keep()
    assert await ids(log) == [each.id for each in (made[1], *made[5:])]


async def test_what_has_expired_is_told_as_well_once_a_round(log: EventLog) -> None:
    made = [aged(n) for n in range(1, 4)]
    await log.append([new(each, *events(1, 2), ending=ending(2)) for each in made])
    retention = RetentionLoop(log, Settings.load({"url": "events.db"}, {}))
    await retention._round()
    await retention._notes.write()
    await retention._notes.write()
    assert await told(log) == {("age", "default", "streams", 3), ("age", "default", "events", 6)}


async def test_no_more_notes_are_kept_than_the_newest(
    log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("log.record_log", "stores.sql.listing"):
        monkeypatch.setattr(f"mcp_persist_middleware.{module}.MOST", 3)
    assert deletions.MOST == 10_000
    for n in range(1, 6):
        await log.note_deletions([Deletion(float(n), Reason.COUNT, "default", "streams", n)])
    assert [each.count for each in await log.deletions(100)] == [5, 4, 3]


async def test_a_store_that_cannot_be_bounded_says_so_and_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Older(MemoryLog):
        streams, remove = EventLog.streams, EventLog.remove

    shelf = Shelf()
    persistence = Persistence(log=lambda _: Older(shelf), max_store_bytes="1MiB")
    async with persistence:
        log = (await access_to(persistence).context()).log
        await bounds(log, max_store_bytes="1MiB").run()
        assert "Older does not implement 'streams'" in caplog.text
        await persistence.ping()


async def test_what_was_removed_is_told_by_the_persistence(tmp_path: Path) -> None:
    async with Persistence(url=str(tmp_path / "events.db")) as persistence:
        log = (await access_to(persistence).context()).log
        await kept(log, 3)
        await bounds(log, max_kept_streams=0).keep()
        assert {each.kind for each in await persistence.deletions()} == {"streams", "events"}
        await persistence.forget(namespace="default")
        assert {each.reason for each in await persistence.deletions(2)} == {Reason.FORGOTTEN}
