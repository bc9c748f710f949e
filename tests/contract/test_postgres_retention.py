"""PostgreSQL: steps of retention go on where the last one was, and still leave nothing behind."""

import time
from pathlib import Path

import pytest

from mcp_persist_middleware.log.base import EventLog
from mcp_persist_middleware.model import StreamRecord
from mcp_persist_middleware.stores.postgres import read
from mcp_persist_middleware.testing.contract.builders import ending, events, new, record
from tests.contract.postgres import somebody
from tests.support.packaged import PACKAGED, marked
from tests.support.stores import STORES, Store

pytestmark = pytest.mark.timeout(60)
_NOW = 1000.0


@pytest.fixture(params=["postgres", *marked("postgres15+tls")])
def store(tmp_path: Path, request: pytest.FixtureRequest) -> Store:
    """A database of this test's own."""
    return (STORES | PACKAGED)[request.param](tmp_path, request.getfixturevalue)


async def old(log: EventLog, count: int, expires_at: float) -> list[StreamRecord]:
    """Streams of 20 events: two steps of 10 for each."""
    made = [record(session="old") for _ in range(count)]
    end = ending(20, expires_at=expires_at)
    await log.append([new(stream, *events(1, 20), ending=end) for stream in made])
    return made


async def deleted(log: EventLog) -> StreamRecord:
    """A stream of a session that was deleted just now."""
    stream = record(session="deleted")
    await log.append([new(stream, *events(1, 3), ending=ending(3, expires_at=2 * _NOW))])
    await log.expire_session("default", "/mcp", "deleted")
    return stream


async def test_the_tables_are_kept_and_vacuumed_as_their_rows_change(
    log: EventLog, store: Store
) -> None:
    del log
    rows = await store.rows(
        "SELECT relname, reloptions FROM pg_class WHERE relname LIKE 'mcp\\_%' AND relkind = 'r'"
    )
    kept = {name.removeprefix("mcp_"): set(options or ()) for name, options in rows}
    assert "autovacuum_vacuum_cost_limit=1000" in kept["event"] & kept["stream"]
    assert "fillfactor=85" in kept["stream"]
    assert "fillfactor=60" in kept["session"] & kept["worker"] & kept["inbox"]
    assert kept["meta"] == set()


async def test_a_deleted_session_goes_while_retention_is_behind(
    log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read, "_AGAIN", 0.2)
    await old(log, 3, 100.0)
    assert (await log.purge(_NOW, 10)).more
    gone = await deleted(log)
    until, written = time.monotonic() + 10, 101.0
    while await log.find(gone.id) is not None:
        assert time.monotonic() < until, "it is left behind"
        # What expires keeps pace with what is removed.
        await old(log, 1, written)
        for _ in range(2):
            assert (await log.purge(_NOW, 10)).more, "it never gets to the end"
        written += 0.01


async def test_what_was_passed_over_is_gone_when_a_round_ends(
    log: EventLog, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was deleted since the round began, and what somebody held."""
    monkeypatch.setattr(read, "_AGAIN", 3600.0)
    (held,) = await old(log, 1, 50.0)
    rest = await old(log, 3, 100.0)
    async with somebody(store) as them, them.transaction():
        await them.execute("SELECT 1 FROM mcp_stream WHERE id = $1 FOR UPDATE", held.id)
        assert (await log.purge(_NOW, 10)).more
    gone = await deleted(log)
    steps = 0
    while (await log.purge(_NOW, 10)).more:
        steps += 1
        assert steps < 50
    assert [await log.find(stream.id) for stream in (held, gone, *rest)] == [None] * 5


async def test_a_damaged_stream_keeps_no_other_from_being_removed(
    log: EventLog, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """A trigger says what the server says of a page whose checksum is wrong."""
    streams = await old(log, 8, 50.0)
    async with somebody(store) as them:
        await them.execute(
            "CREATE FUNCTION broken() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            " RAISE EXCEPTION 'invalid page in block 7' USING ERRCODE = 'XX001'; END $$;"
            " CREATE TRIGGER broken BEFORE DELETE ON mcp_event FOR EACH ROW"
            f" WHEN (OLD.stream = '\\x{streams[2].id.hex()}') EXECUTE FUNCTION broken()"
        )
    steps = gone = 0
    while (purged := await log.purge(_NOW, 1000)).more:
        gone += purged.streams
        steps += 1
        assert steps < 50
    assert gone + purged.streams == 8
    assert [await log.find(stream.id) for stream in streams] == [None] * 8
    assert caplog.text.count("The store is damaged") == 1
