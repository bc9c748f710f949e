"""PostgreSQL: no statement of the hot path or of retention walks a table, with statistics as a long
history leaves them. The server counts the walks."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from mcp_persist_middleware.log.base import EventLog
from mcp_persist_middleware.model import JobCreation
from mcp_persist_middleware.stores.postgres import read
from mcp_persist_middleware.stores.postgres.log import PostgresLog
from mcp_persist_middleware.testing.contract.builders import (
    COMMITTED,
    KEY,
    NOW,
    Factory,
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
from tests.contract.postgres import somebody
from tests.support.packaged import PACKAGED, marked
from tests.support.stores import STORES, Store

pytestmark = pytest.mark.timeout(60)

_OTHERS = """
SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
   AND pid <> pg_backend_pid() AND backend_type = 'client backend'
"""
_HISTORY = """
INSERT INTO mcp_stream (id, kind, namespace, path, session, principal, epoch, state, last_sequence,
                        worker, created_at, ended_at, expires_at, request_ids, trace)
SELECT sha256(n::text::bytea), 'p', 'default', '/mcp', 'old-' || n, '', 1, 1, 40, 'gone', 1, 1,
       1e10 + n, '[1]', '' FROM generate_series(1, 3000) AS n;
INSERT INTO mcp_event (stream, sequence, epoch, kind, codec, payload)
SELECT sha256(s::text::bytea), n, 1, 0, 0, 'x' FROM generate_series(1, 3000) AS s,
       generate_series(1, 40) AS n;
INSERT INTO mcp_session SELECT (json_populate_record(s, json_build_object(
       'id', 'old-' || n, 'home', 'gone', 'expires_at', 1e10 + n))).*
       FROM mcp_session AS s, generate_series(1, 5000) AS n;
INSERT INTO mcp_inbox (id, namespace, path, session, worker, generation, state, deadline, sealed,
                       content, reply)
SELECT sha256(n::text::bytea), 'default', '/mcp', 'old-' || n, 'w' || n, 1, 2, 1e10 + n, false, '',
       '' FROM generate_series(1, 5000) AS n;
"""


@pytest.fixture(params=["postgres", *marked("postgres15+tls")])
def store(tmp_path: Path, request: pytest.FixtureRequest) -> Store:
    """A database of this test's own."""
    return (STORES | PACKAGED)[request.param](tmp_path, request.getfixturevalue)


@pytest.fixture
async def log(make_log: Factory, store: Store) -> AsyncIterator[EventLog]:
    """A log on a store with a history; at the end it has walked no table."""
    first, made = make_log(), make_log()
    await first.open("old")
    await first.sessions.create(new_session("old"))
    async with somebody(store) as them:
        await them.execute(_HISTORY)
        await them.execute("VACUUM ANALYZE")
        await first.aclose()
        await all_counted(them)
        before = await walks(them)
        await made.open("one")
        yield made
        await made.aclose()
        await all_counted(them)
        assert await walks(them) == before


async def all_counted(connection: Any) -> None:
    """What a connection has counted is known when it has ended; of this one, when it says so."""
    async with asyncio.timeout(5):
        while await connection.fetchval(_OTHERS):
            await asyncio.sleep(0.02)
    await connection.execute("SELECT pg_stat_force_next_flush()")


async def walks(connection: Any) -> dict[str, int]:
    """How often each table was walked."""
    rows = await connection.fetch(
        "SELECT relname, seq_scan FROM pg_stat_user_tables WHERE relname = ANY ($1)",
        ["mcp_event", "mcp_stream", "mcp_session", "mcp_inbox"],
    )
    return {row[0]: row[1] for row in rows}


async def test_no_step_of_a_stream_walks_a_table(log: PostgresLog) -> None:
    streams = [record() for _ in range(300)]
    await log.append([new(stream, *events(1, 3)) for stream in streams])
    for number in range(4, 12):
        batch = [add(stream, *events(number, 1)) for stream in streams]
        assert await log.append(batch) == [COMMITTED] * 300
    assert await log.append(batch) == [COMMITTED] * 300, "a retry"
    one, two, three, *rest = streams
    assert await log.append([add(one, *events(12, 1), trim=2)]) == [COMMITTED]
    late = add(two, *events(12, 1, epoch=2), epoch=2, takes_over=1, ending=ending(12))
    assert await log.append([late]) == [COMMITTED]
    await log.append([add(stream, ending=ending(11, expires_at=1.0)) for stream in rest])
    await log.find(one.id)
    await log.read(one.id, 3, 100, 10_000)
    await log.renew_readers([stream.id for stream in rest[:200]], 60)
    await log.reader_ttl(three.id)
    await log.active_writers()
    await log.open_streams_of("one", 10)
    await log.expire_session("default", "/mcp", "s")
    while (await log.purge(2.0, 500)).more:
        pass
    await log.ping()


async def test_no_step_of_a_session_or_a_request_walks_a_table(log: PostgresLog) -> None:
    await begin_session(log)
    for _ in range(3):
        await log.inbox.put(relayed(), 100)
    (sent, *_) = await log.inbox.claim("one", 2, NOW, NOW + 60)
    await log.inbox.look(sent.name)
    await log.inbox.claimed("one")
    await log.inbox.renew("one", [sent.id], NOW + 60)
    await log.inbox.answer(sent.id, "one", b"", NOW)
    await log.inbox.withdraw(sent.name)
    await log.inbox.remove([sent.name])
    await log.sessions.find(KEY)
    await log.sessions.move(KEY, 1, "two")
    await log.inbox.purge(NOW, 100)
    made = new_session("s7")
    await log.sessions.create(made)
    await log.sessions.note(made)
    await log.sessions.stream_state(made.key)
    await log.sessions.begin_stream(made.key, bytes(16))
    await log.sessions.activate(made.key, 0, "w")
    await log.sessions.checkpoint(made.key, 0, "w", bytes(16), 3)
    await log.sessions.touch([new_session(f"old-{n}").key for n in range(50)], time.time() + 3000)
    await log.sessions.delete(made.key, 3000.0)
    await log.sessions.purge(3500.0, 100)


_JOBS = """
INSERT INTO mcp_job (id, namespace, path, session, principal, account, face, worker, tool, stream,
                     request_id, created_at, updated_at, expires_at, key, arguments, round, inputs,
                     revision)
SELECT decode(lpad(to_hex(n), 48, '0'), 'hex'), 'default', '/mcp', '', 'ann', 'a' || n % 9,
       'extension', 'gone', 'slow', sha256(n::text::bytea), '1', 1, 1, 1e10, '', '', 0, '', 1
  FROM generate_series(1, 3000) AS n
"""


async def test_a_job_that_takes_the_place_of_the_oldest_looks_at_no_others(
    log: PostgresLog, store: Store
) -> None:
    seen: list[tuple[str, Any]] = []
    assert log._made is not None

    def note(_c: Any, _k: Any, statement: str, parameters: Any, _x: Any, _m: bool) -> None:
        seen.append((statement, parameters))

    async with somebody(store) as them:
        await them.execute(_JOBS)
        await them.execute("VACUUM ANALYZE mcp_job")
        event.listen(log._made.sync_engine, "before_cursor_execute", note)
        for _ in range(2):
            made = [log.jobs.create(job(log), 3000, 1000) for _ in range(10)]
            assert set(await asyncio.gather(*made)) == {JobCreation.CREATED}
        event.remove(log._made.sync_engine, "before_cursor_execute", note)
        assert await them.fetchval("SELECT count(*) FROM mcp_job") == 3000
        assert (
            await them.fetchval("SELECT id FROM mcp_job ORDER BY id LIMIT 1") == bytes(23) + b"\x15"
        )
        oldest = next(each for each in seen if "coalesce" in each[0])
        explain = f"EXPLAIN (ANALYZE, FORMAT JSON) {oldest[0]}"
        nodes = list(_nodes(json.loads(await them.fetchval(explain, *oldest[1]))[0]["Plan"]))
    whole = [each for each, _ in seen if "count(" in each and "WHERE" not in each]
    assert 1 <= len(whole) <= 3, "all are counted once in a second"
    assert {node["Node Type"] for node in nodes} == {"Limit", "LockRows", "Index Scan"}, nodes
    # Those that have gone are passed over in the index.
    assert [node["Actual Loops"] for node in nodes] == [1] * 4


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for part in plan.get("Plans", ()):
        yield from _nodes(part)


async def test_a_round_of_retention_passes_what_it_has_removed_once(
    make_log: Factory, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not in every step, while somebody's long transaction keeps it in the index."""
    monkeypatch.setattr(read, "_AGAIN", 3600.0)
    count = 2000
    log = make_log()
    await log.open("one")
    old = [record() for _ in range(count)]
    await log.append(
        [
            new(stream, *events(1, 1), ending=ending(1, expires_at=1 + number / count))
            for number, stream in enumerate(old)
        ]
    )
    async with somebody(store) as them, somebody(store) as dump:
        await dump.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        assert await dump.fetchval("SELECT count(*) FROM mcp_event") == count
        streams, more = 0, True
        while more:
            purged = await log.purge(3.0, 50)
            streams, more = streams + purged.streams, purged.more
        assert streams == count
        await dump.execute("COMMIT")
        await dump.close()
        await log.aclose()
        await all_counted(them)
        passed = await them.fetchval(
            "SELECT idx_tup_read FROM pg_stat_user_indexes WHERE indexrelname = $1",
            "mcp_stream_expiry",
        )
    assert count <= passed < 4 * count
