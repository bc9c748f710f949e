"""A store's tables from one version to the next: in place, once, whoever dies or comes together.

`upgrade/7fa6755.*.sql` are stores as that commit made them, before there were steps.
"""

import contextlib
import dataclasses
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url

from mcp_persist_middleware import telemetry
from mcp_persist_middleware.errors import SchemaInUseError, SchemaRightsError, SchemaVersionError
from mcp_persist_middleware.log.base import EventLog
from mcp_persist_middleware.model import EventKind, SessionKey
from mcp_persist_middleware.settings import Settings
from mcp_persist_middleware.stores import connect
from mcp_persist_middleware.stores.sql import migrations, schema, upgrade
from mcp_persist_middleware.stores.sql.migrations import Migration
from mcp_persist_middleware.testing.contract.builders import ALL, COMMITTED, add, events
from tests.contract.postgres import somebody
from tests.support import stores
from tests.support.stores import Store

OLD = Path(__file__).parent / "upgrade"
ROOT = Path(__file__).parents[2]
LEFT, DONE = b"\1" * 16, b"\2" * 16
DIALECT = {"sqlite": "sqlite", "postgres": "postgresql"}


@pytest.fixture(params=[*DIALECT])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """An empty store."""
    return stores.STORES[request.param](tmp_path, request.getfixturevalue)


async def restore(store: Store, prefix: str = "mcp_") -> None:
    """Put into an empty store what 7fa6755 left."""
    sql = (OLD / f"7fa6755.{DIALECT[store.name]}.sql").read_text()
    await run(store, sql.replace("mcp_", prefix))


async def run(store: Store, sql: str) -> None:
    """Run a script of SQL as somebody who has nothing to do with the library."""
    if store.name == "sqlite":
        with contextlib.closing(sqlite3.connect(make_url(store.url).database or "")) as file:
            file.executescript(sql)
        return
    async with somebody(store) as connection:
        await connection.execute(sql)


@contextlib.asynccontextmanager
async def opened(store: Store, **more: Any) -> AsyncIterator[EventLog]:
    """A worker on the store."""
    log = connect.make_log(Settings.load(store.settings | more, {}))
    await log.open("new")
    try:
        yield log
    finally:
        await log.aclose()


async def meta(store: Store, prefix: str = "mcp_") -> dict[str, bytes]:
    """What the store says of itself."""
    rows = await store.rows(f'SELECT name, value FROM "{prefix}meta"')
    return {name: bytes(value) for name, value in rows if name != "clock"}


async def shape(store: Store) -> dict[str, list[tuple[Any, ...]]]:
    """Columns, indexes and options of every table, in whatever order they came."""
    if store.name == "sqlite":
        tables = [name for (name,) in await store.rows(TABLES)]
        columns = {t: await store.rows(f"PRAGMA table_info({t})") for t in tables}
        plain = {t: sorted(row[1:] for row in rows) for t, rows in columns.items()}
        text = await store.rows("SELECT name, sql FROM sqlite_master WHERE type = 'index'")
        return plain | {"indexes": sorted((n, str(s).replace('"', "")) for n, s in text)}
    return {
        "columns": sorted(await store.rows(COLUMNS)),
        "indexes": sorted(await store.rows(INDEXES)),
        "options": sorted((n, sorted(options or [])) for n, options in await store.rows(OPTIONS)),
    }


TABLES = "SELECT name FROM sqlite_master WHERE type = 'table'"
COLUMNS = (
    "SELECT table_name, column_name, data_type, is_nullable, character_maximum_length::text"
    " FROM information_schema.columns WHERE table_schema = 'public'"
)
INDEXES = "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'"
OPTIONS = (
    "SELECT relname, reloptions FROM pg_class"
    " WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'"
)


@pytest.mark.parametrize("prefix", ["mcp_", "old_"])
async def test_a_store_of_the_commit_before_is_upgraded_in_place_and_all_of_it_is_there(
    store: Store, prefix: str
) -> None:
    await restore(store, prefix)
    async with opened(store, table_prefix=prefix) as log:
        told = await meta(store, prefix)
        assert int(told["schema"]) == migrations.NEWEST
        assert told["package"].decode() == telemetry.VERSION
        left, done = await log.find(LEFT), await log.find(DONE)
        assert left is not None
        assert left.worker == "gone"
        assert (left.request or b"").endswith(b'"tools/call"}')
        assert done is not None
        assert done.last_sequence == 3
        kinds = [event.kind for event in await log.read(DONE, 0, *ALL)]
        assert kinds == [EventKind.MESSAGE, EventKind.MESSAGE, EventKind.RESPONSE]
        assert await log.append([add(left, *events(3, 1))]) == [COMMITTED]
        session = await log.sessions.find(SessionKey("default", "/mcp", "s"))
        assert session is not None
        assert b'"sampling"' in session.initialize
        assert session.subscriptions == ("a://b",)
        assert [each.content for each in await log.inbox.claim("one", 9, 0.0, 5e9)] == [b"content"]
        assert await log.inbox.public_key("one") == b"k" * 32
        assert set(await log.workers()) == {"one", "new"}


async def test_an_upgraded_store_has_the_shape_of_a_new_one(
    store: Store, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    await restore(store)
    (tmp_path / "fresh").mkdir()
    fresh = stores.STORES[store.name](tmp_path / "fresh", request.getfixturevalue)
    async with opened(store), opened(fresh):
        assert await shape(store) == await shape(fresh)


async def test_of_a_new_store_one_line_tells_and_of_an_old_one_each_step(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", upgrade.__name__)
    async with opened(store):
        (line,) = caplog.messages
        assert "is new" in line
    caplog.clear()
    await restore(store, "old_")
    async with opened(store, table_prefix="old_"):
        assert [" gets schema " in line for line in caplog.messages] == [True] * (
            migrations.NEWEST - 1
        )


async def test_the_tables_have_the_columns_that_statements_name(store: Store) -> None:
    async with opened(store):
        tables = schema.tables("mcp_")
        for each in dataclasses.fields(tables):
            table = getattr(tables, each.name)
            listed = (
                f"SELECT name FROM pragma_table_info('{table.name}')"
                if store.name == "sqlite"
                else f"SELECT column_name FROM information_schema.columns"
                f" WHERE table_name = '{table.name}'"
            )
            assert {n for (n,) in await store.rows(listed)} == {c.name for c in table.c}


def a_worker(store: Store, body: str) -> "subprocess.Popen[str]":
    """Another process that opens the store."""
    program = PROCESS.format(settings=store.settings, body=body)
    command, pipe = [sys.executable, "-c", program], subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True)


PROCESS = """
import asyncio, logging, os, signal, sys
from mcp_persist_middleware.stores import connect
from mcp_persist_middleware.stores.sql import migrations
from mcp_persist_middleware.settings import Settings
logging.basicConfig(level=logging.INFO, stream=sys.stdout)
{body}
async def main():
    log = connect.make_log(Settings.load({settings!r}, {{}}))
    await log.open(str(os.getpid()))
    await log.aclose()
asyncio.run(main())
"""


TOGETHER = """
import time
plain = migrations.Migration.statements
def statements(*given):
    time.sleep(0.2)
    return plain(*given)
migrations.Migration.statements = statements
print("ready", flush=True)
sys.stdin.readline()
"""


async def test_of_many_processes_that_start_at_once_one_upgrades(store: Store) -> None:
    await restore(store)
    workers = [a_worker(store, TOGETHER) for _ in range(3)]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("\n")
        worker.stdin.flush()
    told = [worker.communicate() for worker in workers]
    assert [worker.returncode for worker in workers] == [0] * 3
    assert "".join(out for out, _ in told).count("gets schema 2") == 1


DIES = """
def record(*_):
    os.kill(os.getpid(), signal.SIGKILL)
migrations.record = record
"""


async def test_a_worker_that_is_killed_in_the_middle_of_a_step_leaves_it_to_the_next(
    store: Store,
) -> None:
    await restore(store)
    worker = a_worker(store, DIES)
    worker.communicate()
    assert worker.returncode == -signal.SIGKILL
    assert "schema" not in await meta(store)
    async with opened(store) as log:
        assert await log.find(DONE) is not None
    assert int((await meta(store))["schema"]) == migrations.NEWEST


async def test_a_newer_store_names_the_version_to_install_and_is_left_alone(store: Store) -> None:
    async with opened(store):
        pass
    told = {"schema": "9", "version": "8", "package": "7.1.0"}
    before = await say(store, **told)
    with pytest.raises(SchemaVersionError, match=r"install mcp-persist-middleware 7\.1\.0") as met:
        async with opened(store):
            pass
    assert "schema 9" in str(met.value)
    assert await meta(store) == before
    assert not await store.rows("SELECT * FROM mcp_worker"), "who was refused left nothing behind"


async def test_an_older_worker_goes_on_beside_a_newer_schema_that_only_adds(store: Store) -> None:
    async with opened(store):
        pass
    before = await say(store, schema="9", version="1", package="7.1.0")
    async with opened(store) as log:
        assert set(await log.workers()) == {"new"}
    assert await meta(store) == before


async def say(store: Store, **told: str) -> dict[str, bytes]:
    """Let the store say something else of itself."""
    kind = "BLOB" if store.name == "sqlite" else "BYTEA"
    for name, value in told.items():
        changed = f"UPDATE mcp_meta SET value = CAST('{value}' AS {kind}) WHERE name = '{name}'"
        await run(store, changed)
    return await meta(store)


async def test_a_worker_of_the_commit_before_goes_on_beside_this_one(store: Store) -> None:
    async with opened(store) as log:
        # What it compares with the one number that it knows, and the statement that enrols it.
        assert (await meta(store))["version"] == b"1"
        await run(
            store,
            "INSERT INTO mcp_worker (id, counter, state, seen_at) VALUES ('older', 1, 0, 1000.5)",
        )
        assert set(await log.workers()) == {"new", "older"}


@pytest.fixture
def breaking(monkeypatch: pytest.MonkeyPatch) -> Migration:
    """A next step, which takes something away from workers of today."""
    step = Migration(99, "breaks", compatible_from=99)
    monkeypatch.setattr(migrations, "STEPS", (*migrations.STEPS, step))

    def statements(self: Migration, dialect: str, prefix: str) -> Sequence[str]:
        return [f'DROP TABLE "{prefix}inbox"'] if self is step else plain(self, dialect, prefix)

    plain = Migration.statements
    monkeypatch.setattr(Migration, "statements", statements)
    return step


async def test_a_step_that_older_workers_do_not_survive_waits_until_they_are_gone(
    store: Store, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    async with opened(store) as log:
        step = request.getfixturevalue("breaking")
        late = connect.make_log(Settings.load(store.settings, {}))
        with monkeypatch.context() as newer:
            newer.setattr(migrations, "NEWEST", step.number)
            with pytest.raises(SchemaInUseError, match="1 of them"):
                await late.open("late")
        assert await log.inbox.claimed("new") == []
    monkeypatch.setattr(migrations, "NEWEST", step.number)
    await late.open("late")
    assert int((await meta(store))["version"]) == 99
    await late.aclose()


@pytest.mark.parametrize("old", [True, False])
async def test_a_role_that_may_not_make_tables_is_told_what_somebody_else_has_to_run(
    tmp_path: Path, request: pytest.FixtureRequest, old: bool
) -> None:
    store = stores.STORES["postgres"](tmp_path, request.getfixturevalue)
    user = f"plain_{make_url(store.url).database}"
    url = make_url(store.url).set(username=user).render_as_string(hide_password=False)
    async with somebody(store) as admin:
        await admin.execute(f"CREATE ROLE {user} LOGIN")
        if old:
            await restore(store)
            await admin.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {user}")
        role = dataclasses.replace(store, settings=store.settings | {"url": url})
        with pytest.raises(SchemaRightsError) as met:
            async with opened(role):
                pass
        plan = str(met.value.fields["plan"])
        assert plan in str(met.value)
        assert ('CREATE TABLE "mcp_stream"' in plan) is not old
        await admin.execute(plan)
        async with opened(role) as log:
            assert "new" in await log.workers()
        await admin.execute(f"DROP OWNED BY {user}; DROP ROLE {user}")
