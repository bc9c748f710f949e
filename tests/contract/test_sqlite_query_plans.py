"""No statement of the hot path or of retention walks a table."""

import re
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from mcp_persist_middleware.model import JobCreation, SessionKey
from mcp_persist_middleware.stores.sql.schema import tables
from mcp_persist_middleware.stores.sqlite.log import SqliteLog
from mcp_persist_middleware.stores.sqlite.statements import SqliteStatements
from mcp_persist_middleware.testing.contract.builders import (
    KEY,
    NOW,
    add,
    begin_session,
    ending,
    events,
    new,
    record,
    relayed,
)
from mcp_persist_middleware.testing.contract.builders import session as new_session
from mcp_persist_middleware.testing.contract.cases.jobs import job
from tests.contract.sqlite import direct
from tests.support import stores
from tests.support.stores import Store

_TABLE = re.compile(r"SCAN (mcp_(?:event|stream|worker)|s)\b")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A file of this test's own."""
    return stores.sqlite(tmp_path, str)


def _scans(plan: list[str]) -> list[str]:
    """The steps that walk a whole table. The index of living streams holds only those."""
    return [step for step in plan if _TABLE.match(step) and "INDEX mcp_stream_open" not in step]


def _plan(log: SqliteLog, sql: str, parameters: Any) -> list[str]:
    with direct(log._path) as outside:
        return [row[3] for row in outside.execute("EXPLAIN QUERY PLAN " + sql, parameters)]


def _values(statement: str) -> Any:
    """What it takes, by name or in its order."""
    return dict.fromkeys(re.findall(r":(\w+)", statement)) or [None] * statement.count("?")


def test_no_placeholder_has_a_number() -> None:
    """Python 3.12.0 to 3.12.3 warn of one that is given its value by place."""
    made = SqliteStatements(tables("mcp_"))
    every = [getattr(made, name) for name in dir(made) if not name.startswith("_")]
    texts = [each for each in every if isinstance(each, str)]
    assert len(texts) > 20
    assert [text for text in texts if re.search(r"\?\d", text)] == []


async def _filled(log: SqliteLog) -> None:
    streams = [record(session=f"s{n}") for n in range(50)]
    await log.append([new(s, *events(1, 20), ending=ending(20)) for s in streams])
    await log.append([new(record(session="open"), *events(1, 20))])
    with direct(log._path) as outside:
        outside.execute("ANALYZE")


async def test_every_statement_of_a_batch_finds_its_rows_by_an_index(log: SqliteLog) -> None:
    await _filled(log)
    sql = SqliteStatements(tables("mcp_"))
    for statement in (
        sql.find_stream,
        sql.page,
        sql.expired,
        sql.forget,
        sql.remove_stream,
        sql.insert(1),
        sql.insert(8),
        sql.create,
        sql.end,
        sql.take_over,
        sql.trim,
        sql.there,
        sql.settle,
        sql.above,
    ):
        plan = _plan(log, statement, _values(statement))
        assert not _scans(plan), (statement, plan)
    plan = _plan(log, sql.page, [None] * 3)
    assert not any("TEMP B-TREE" in step for step in plan), plan


async def test_every_other_statement_and_every_step_of_retention_does_too(log: SqliteLog) -> None:
    await _filled(log)
    seen: list[tuple[str, Any]] = []
    assert log._made is not None

    def note(_c: Any, _k: Any, statement: str, parameters: Any, _x: Any, _m: bool) -> None:
        if statement.startswith(("SELECT", "UPDATE", "DELETE")):
            seen.append((statement, parameters))

    event.listen(log._made.sync_engine, "before_cursor_execute", note)
    stream = record()
    await log.append([new(stream, *events(1, 3))])
    await log.renew_readers([stream.id, record().id], 60)
    await log.append([add(stream, ending=ending(3, expires_at=1.0))])
    await log.purge(2.0, 100)
    await log.expire_session("default", "/mcp", "s7")
    await log.append([new(record(worker="gone"))])
    await log.declare_dead("gone", 1)
    await log.deregister("gone")
    assert sorted(await log.active_writers()) == ["gone", "one"]
    assert len(await log.open_streams_of("gone", 10)) == 1
    event.remove(log._made.sync_engine, "before_cursor_execute", note)
    assert len(seen) >= 6
    for statement, parameters in seen:
        plan = _plan(log, statement, parameters)
        assert plan, statement
        assert not _scans(plan), (statement, plan)


async def test_every_step_of_a_request_finds_its_rows_by_an_index(log: SqliteLog) -> None:
    await begin_session(log)
    for n in range(50):
        key = SessionKey("default", "/mcp", f"s{n}")
        await begin_session(log, key, f"worker{n}")
        await log.inbox.put(relayed(key=key, worker=f"worker{n}"), 100)
    with direct(log._path) as outside:
        outside.execute("ANALYZE")
    sql = SqliteStatements(log.tables)
    short = (sql.put, sql.at_home, sql.waiting, sql.claim, sql.answer, sql.look)
    seen: list[tuple[str, Any]] = [(each, _values(each)) for each in short]
    assert log._made is not None

    def note(_c: Any, _k: Any, statement: str, parameters: Any, _x: Any, _m: bool) -> None:
        if re.match("SELECT|UPDATE|DELETE|INSERT", statement):
            seen.append((statement, parameters))

    event.listen(log._made.sync_engine, "before_cursor_execute", note)
    sent = relayed()
    await log.inbox.claimed("one")
    await log.inbox.renew("one", [sent.id], NOW + 60)
    await log.inbox.withdraw(sent.name)
    await log.inbox.remove([sent.name])
    await log.sessions.move(KEY, 1, "two")
    await log.inbox.purge(NOW, 10)
    event.remove(log._made.sync_engine, "before_cursor_execute", note)
    assert len(seen) >= len(short) + 7
    for statement, parameters in seen:
        with direct(log._path) as outside:
            steps = [
                row[3] for row in outside.execute("EXPLAIN QUERY PLAN " + statement, parameters)
            ]
        # A subquery is walked as far as it was limited to.
        scans = [each for each in steps if re.match(r"SCAN (?!anon|\(|CONSTANT)", each)]
        assert not scans, (statement, steps)


async def test_every_statement_about_sessions_finds_its_rows_by_an_index(log: SqliteLog) -> None:
    for n in range(200):
        await log.sessions.create(new_session(f"s{n}"))
    with direct(log._path) as outside:
        outside.execute("ANALYZE")
    seen: list[tuple[str, Any]] = []
    assert log._made is not None

    def note(_c: Any, _k: Any, statement: str, parameters: Any, _x: Any, _m: bool) -> None:
        if statement.startswith(("SELECT", "UPDATE", "DELETE")):
            seen.append((statement, parameters))

    event.listen(log._made.sync_engine, "before_cursor_execute", note)
    made = new_session("s7")
    await log.sessions.find(made.key)
    await log.sessions.move(made.key, 1, "two")
    await log.sessions.note(made)
    await log.sessions.stream_state(made.key)
    await log.sessions.begin_stream(made.key, bytes(16))
    await log.sessions.activate(made.key, 0, "w")
    await log.sessions.checkpoint(made.key, 0, "w", bytes(16), 3)
    await log.sessions.touch([new_session(f"s{n}").key for n in range(50)], 3000.0)
    await log.sessions.delete(made.key, 3000.0)
    await log.sessions.purge(2500.0, 10)
    event.remove(log._made.sync_engine, "before_cursor_execute", note)
    assert len(seen) >= 6
    with direct(log._path) as outside:
        for statement, parameters in seen:
            rows = outside.execute("EXPLAIN QUERY PLAN " + statement, parameters).fetchall()
            scans = [row[3] for row in rows if row[3].startswith("SCAN mcp_session")]
            assert not scans, (statement[:200], rows)


async def test_all_jobs_are_counted_once_in_many_where_there_is_room(log: SqliteLog) -> None:
    seen: list[str] = []
    assert log._made is not None

    def note(_c: Any, _k: Any, statement: str, _p: Any, _x: Any, _m: bool) -> None:
        seen.append(statement)

    event.listen(log._made.sync_engine, "before_cursor_execute", note)
    for _ in range(60):
        assert await log.jobs.create(job(log), 10_000, 1000) is JobCreation.CREATED
    counts = [re.findall(r"count\(\*\) AS \w+\s+FROM mcp_job\s*(WHERE)?", each) for each in seen]
    assert sum(each.count("") for each in counts) == 1
    # Near the bound each is counted.
    done = [await log.jobs.create(job(log), 65, 1000) for _ in range(7)]
    assert [each.name for each in done] == ["CREATED"] * 5 + ["FULL"] * 2
    event.remove(log._made.sync_engine, "before_cursor_execute", note)


async def test_every_statement_about_jobs_finds_its_rows_by_an_index(log: SqliteLog) -> None:
    jobs = [job(log, key=f"k{n}", account=f"a{n % 20}") for n in range(400)]
    for each in jobs:
        await log.jobs.create(each, 10_000, 1000)
    with direct(log._path) as outside:
        outside.execute("ANALYZE")
    seen: list[tuple[str, Any]] = []
    assert log._made is not None

    def note(_c: Any, _k: Any, statement: str, parameters: Any, _x: Any, _m: bool) -> None:
        if statement.startswith(("SELECT", "UPDATE", "DELETE")):
            seen.append((statement, parameters))

    event.listen(log._made.sync_engine, "before_cursor_execute", note)
    first, place = jobs[0], jobs[0].owner.place
    await log.jobs.find(first.id)
    await log.jobs.find_key(place, "k7")
    await log.jobs.change(first)
    await log.jobs.list("a3", b"", 10)
    await log.jobs.list("a3", first.id, 10)
    await log.jobs.list(None, first.id, 10)
    await log.jobs.create(job(log, key="k7"), 10_000, 1000)
    await log.jobs.create(job(log, account="a1"), 10_000, 5)
    await log.jobs.create(job(log), 1000, 1000)
    await log.jobs.remove([first.id])
    await log.jobs.purge(log.now(), 10)
    event.remove(log._made.sync_engine, "before_cursor_execute", note)
    # How many there are of all is counted, in an index and nothing else.
    everything = [each for each in seen if "count" in each[0] and "WHERE" not in each[0]]
    assert len(seen) >= 12
    with direct(log._path) as outside:
        for statement, parameters in seen:
            rows = outside.execute("EXPLAIN QUERY PLAN " + statement, parameters).fetchall()
            scans = [row[3] for row in rows if re.match(r"SCAN mcp_", row[3])]
            if (statement, parameters) in everything:
                scans = [each for each in scans if "COVERING INDEX" not in each]
            assert not scans, (statement, scans)
