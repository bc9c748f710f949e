"""No statement of the hot path or of retention walks a table."""

import re
from typing import Any

from sqlalchemy import event

from mcp_persist_middleware.log.schema import tables
from mcp_persist_middleware.log.sqlite import SqliteLog
from mcp_persist_middleware.log.sqlite_batch import Statements
from mcp_persist_middleware.log.sqlite_read import Reads
from tests.contract.builders import add, direct, ending, events, new, record

_TABLE = re.compile(r"SCAN (mcp_(?:event|stream|worker)|s)\b")


def _scans(plan: list[str]) -> list[str]:
    """The steps that walk a whole table. The index of living streams holds only those."""
    return [step for step in plan if _TABLE.match(step) and "INDEX mcp_stream_open" not in step]


def _plan(log: SqliteLog, sql: str, parameters: Any) -> list[str]:
    with direct(log._path) as outside:
        return [row[3] for row in outside.execute("EXPLAIN QUERY PLAN " + sql, parameters)]


async def _filled(log: SqliteLog) -> None:
    streams = [record(session=f"s{n}") for n in range(50)]
    await log.append([new(s, *events(1, 20), ending=ending(20)) for s in streams])
    await log.append([new(record(session="open"), *events(1, 20))])
    with direct(log._path) as outside:
        outside.execute("ANALYZE")


async def test_every_statement_of_a_batch_finds_its_rows_by_an_index(log: SqliteLog) -> None:
    await _filled(log)
    sql, reads = Statements(tables("mcp_")), Reads(tables("mcp_"))
    for statement in (
        reads.stream,
        reads.events,
        sql.insert(1),
        sql.insert(8),
        sql.create,
        sql.end,
        sql.take_over,
        sql.trim,
        sql.fence,
        sql.held,
    ):
        count = max([statement.count("?"), *map(int, re.findall(r"\?(\d)", statement))])
        distinct = set(re.findall(r"\?\d", statement))
        plan = _plan(log, statement, [None] * (len(distinct) or count))
        assert not _scans(plan), (statement, plan)
    plan = _plan(log, reads.events, [None] * 3)
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
    await log.attend([stream.id, record().id], 60)
    await log.append([add(stream, ending=ending(3, expires_at=1.0))])
    await log.purge(2.0, 100)
    await log.forget_session("default", "/mcp", "s7")
    await log.append([new(record(worker="gone"))])
    await log.declare_dead("gone", 1)
    await log.dismiss("gone")
    assert sorted(await log.owners()) == ["gone", "one"]
    assert len(await log.left_by("gone", 10)) == 1
    event.remove(log._made.sync_engine, "before_cursor_execute", note)
    assert len(seen) >= 6
    for statement, parameters in seen:
        plan = _plan(log, statement, parameters)
        assert plan, statement
        assert not _scans(plan), (statement, plan)
