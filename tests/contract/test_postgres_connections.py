"""PostgreSQL: the forms of its URL, an engine of the user's, and what is said when it cannot be
opened: what is wrong, what to do, and no password."""

import asyncio
import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool, StaticPool

from mcp_persist_middleware.errors import (
    ConfigurationError,
    MissingDriverError,
    SchemaRightsError,
    StoreError,
    StoreUnavailableError,
)
from mcp_persist_middleware.model import SessionKey
from mcp_persist_middleware.settings import Settings
from mcp_persist_middleware.stores import connect
from mcp_persist_middleware.stores.postgres import engine as postgres_engine
from mcp_persist_middleware.stores.postgres.log import PostgresLog
from mcp_persist_middleware.testing.contract.builders import (
    COMMITTED,
    add,
    events,
    new,
    numbers,
    record,
)
from tests.contract.postgres import somebody
from tests.support import stores
from tests.support.stores import Store, free_port

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def store(tmp_path: Path, request: pytest.FixtureRequest) -> Store:
    """A database of this test's own."""
    return stores.postgres(tmp_path, request.getfixturevalue)


def log_of(url: str, **settings: Any) -> PostgresLog:
    """The log that a URL names."""
    made = connect.make_log(Settings.load({"url": url, **settings}, {}))
    assert isinstance(made, PostgresLog)
    return made


@asynccontextmanager
async def opened(made: PostgresLog) -> AsyncIterator[PostgresLog]:
    """A log, open."""
    await made.open("one")
    try:
        yield made
    finally:
        await made.aclose()


@pytest.mark.parametrize("scheme", ["postgresql+asyncpg", "postgresql", "postgres"])
async def test_every_form_of_the_url_leads_there(store: Store, scheme: str) -> None:
    url = make_url(store.url).set(drivername=scheme).render_as_string(hide_password=False)
    async with opened(log_of(url)) as log:
        assert await log.append([new(record(), *events(1, 1))]) == [COMMITTED]


async def test_what_libpq_takes_in_a_url_is_taken(store: Store) -> None:
    async with opened(log_of(store.url + "?application_name=streams&sslmode=prefer")) as log:
        assert "?" not in log.name
        async with somebody(store) as them:
            names = "SELECT DISTINCT application_name FROM pg_stat_activity WHERE datname = $1"
            found = await them.fetch(names, make_url(store.url).database)
            assert "streams" in [row[0] for row in found]


async def test_what_only_libpq_knows_and_others_put_into_a_url_stops_no_start(store: Store) -> None:
    asked = (
        "?channel_binding=prefer&connect_timeout=5&keepalives=1&keepalives_idle=30"
        "&keepalives_interval=5&keepalives_count=3&tcp_user_timeout=9000&gssencmode=prefer"
        "&requirepeer=postgres&load_balance_hosts=random&fallback_application_name=streams"
        "&target_session_attrs=any&sslsni=1&sslcompression=0&krbsrvname=postgres&pgbouncer=true"
        "&ssl_min_protocol_version=TLSv1.2&client_encoding=LATIN1&replication=database&tty=x"
        "&options=-c%20statement_timeout%3D17s&statement_cache_size=50&sslmode=prefer"
    )
    async with opened(log_of(store.url + asked)) as log:
        assert await log.append([new(record(), *events(1, 1))]) == [COMMITTED]
        async with log._connection() as connection:
            found = await connection.exec_driver_sql("SHOW statement_timeout")
            assert found.scalar() == "17s"
            found = await connection.exec_driver_sql("SHOW application_name")
            assert found.scalar() == "streams"


async def test_what_nobody_knows_is_named_with_the_fix(store: Store) -> None:
    with pytest.raises(StoreUnavailableError, match=r'"frobnicate".*Take it out') as caught:
        await log_of(store.url + "?frobnicate=hunter2").open("one")
    assert "hunter2" not in str(caught.value)


async def test_an_unreadable_home_is_not_told_as_a_server_that_is_away(
    store: Store, tmp_path: Path
) -> None:
    (home := tmp_path / "home").mkdir()
    program = (
        "import asyncio, pathlib, sys\n"
        "from tests.contract.test_postgres_connections import log_of\n"
        "def denied(*_):\n    raise PermissionError(13, 'Permission denied')\n"
        "pathlib.Path.exists = denied\n"  # root may read everything
        "try:\n    asyncio.run(log_of(sys.argv[1]).open('one'))\n"
        "except Exception as error:\n    print(error)\n"
    )
    ended = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program, store.url),
        env=os.environ | {"HOME": str(home)},
        stdout=subprocess.PIPE,
    )
    said, _ = await asyncio.wait_for(ended.communicate(), 30)
    assert f"Let this user read {home}" in said.decode()
    assert "listens at" not in said.decode()


async def test_tls_that_was_asked_for_and_is_not_there_is_refused(store: Store) -> None:
    for ask in ("sslmode=require", "ssl=require", "sslmode=verify-full"):
        with pytest.raises(StoreUnavailableError):
            await log_of(f"{store.url}?{ask}").open("one")


async def test_a_wrong_database_is_named(store: Store) -> None:
    url = make_url(store.url).set(database="nowhere", password="hush").render_as_string(False)
    with pytest.raises(StoreUnavailableError, match="Create the database 'nowhere'") as caught:
        await log_of(url).open("one")
    assert "hush" not in str(caught.value)


async def test_a_host_that_does_not_answer_is_named() -> None:
    port = free_port()
    url = f"postgresql://ann:hush@127.0.0.1:{port}/db"
    with pytest.raises(StoreUnavailableError, match=f"listens at 127.0.0.1:{port}") as caught:
        await log_of(url).open("one")
    assert "hush" not in str(caught.value)


async def test_a_wrong_password_is_said_and_not_told(store: Store) -> None:
    error = type("E", (Exception,), {"sqlstate": "28P01"})("password authentication failed")
    assert "Check the user and the password" in postgres_engine.remedy(error, make_url(store.url))


async def test_a_user_who_may_make_no_tables_is_told_so_and_needs_none_that_are_there(
    store: Store,
) -> None:
    role = "r" + make_url(store.url).database[1:]
    url = make_url(store.url).set(username=role, password="x").render_as_string(False)
    async with somebody(store) as them:
        await them.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'x'")
        try:
            with pytest.raises(SchemaRightsError, match="CREATE TABLE"):
                await log_of(url).open("one")
            async with opened(log_of(store.url)):
                pass
            await them.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}")
            async with opened(log_of(url)) as log:
                assert await log.append([new(record(), *events(1, 1))]) == [COMMITTED]
        finally:
            await them.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


async def test_a_server_that_takes_no_writes_is_refused_at_the_start(store: Store) -> None:
    async with opened(log_of(store.url)):
        pass
    url = store.url + "?default_transaction_read_only=on"
    with pytest.raises(StoreUnavailableError, match="Connect to the primary"):
        await log_of(url).open("one")


async def test_many_workers_that_start_at_once_on_an_empty_database_all_start(
    store: Store,
) -> None:
    logs = [log_of(store.url, store_timeout=9) for _ in range(8)]
    await asyncio.gather(*(log.open(f"w{n}") for n, log in enumerate(logs)))
    assert len({log.secret for log in logs}) == 1
    assert len(await logs[0].workers()) == 8
    await asyncio.gather(*(log.aclose() for log in logs))


async def test_an_engine_of_the_users_is_used_and_stays_open(store: Store) -> None:
    engine = create_async_engine(store.url, pool_size=5)
    stream = record()
    for number in (1, 2):
        log = connect.make_log(Settings.load({"engine": engine}, {}))
        await log.open("one")
        entry = new(stream, *events(1, 1)) if number == 1 else add(stream, *events(2, 1))
        assert await log.append([entry]) == [COMMITTED]
        assert await numbers(log, stream) == list(range(1, number + 1))
        table = log.worker_table()
        assert (await table.look()).keys() == {"one"}
        await table.aclose()
        await log.aclose()
        assert engine.sync_engine.pool.checkedout() == 0
    async with engine.connect() as connection:
        shown = await connection.exec_driver_sql("SHOW enable_seqscan")
        assert shown.scalar() == "on", "what the writer sets for itself is nobody else's"
    await engine.dispose()


@pytest.mark.parametrize(
    "pool",
    [
        {"pool_size": 3, "max_overflow": 0},
        {"pool_size": 1, "max_overflow": 2},
        {"poolclass": StaticPool},
    ],
)
def test_an_engine_with_too_few_connections_is_refused_with_the_fix(pool: dict[str, Any]) -> None:
    engine = create_async_engine("postgresql+asyncpg://u:hunter2@db.example/app", **pool)
    with pytest.raises(ConfigurationError, match=r"pool_size \+ max_overflow be 4") as raised:
        connect.make_log(Settings.load({"engine": engine}, {}))
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize(
    "pool",
    [
        {"pool_size": 4, "max_overflow": 0},
        {"pool_size": 1, "max_overflow": 3},
        {"pool_size": 1, "max_overflow": -1},
        {"pool_size": 0, "max_overflow": 0},
        {"poolclass": NullPool},
    ],
)
async def test_an_engine_with_just_enough_connections_is_used(
    store: Store, pool: dict[str, Any]
) -> None:
    engine = create_async_engine(store.url, **pool)
    log, stream = connect.make_log(Settings.load({"engine": engine}, {})), record()
    await log.open("one")
    first, second = new(stream, *events(1, 1)), new(record(), *events(1, 1))
    assert await asyncio.gather(log.append([first]), log.append([second])) == [[COMMITTED]] * 2
    assert await numbers(log, stream) == [1]
    table = log.worker_table()
    assert (await table.look()).keys() == {"one"}
    await table.aclose()
    await log.aclose()
    await engine.dispose()


async def test_a_worker_needs_no_more_connections_than_are_documented(store: Store) -> None:
    async with opened(log_of(store.url)) as log:
        table = log.worker_table()
        await table.look()
        reads = [log.find(record().id) for _ in range(200)]
        await asyncio.gather(*reads, *(log.ping() for _ in range(20)))
        async with somebody(store) as them:
            count = "SELECT count(*) FROM pg_stat_activity WHERE datname = $1"
            found = await them.fetchval(count, make_url(store.url).database)
        assert found - 1 == 8
        await table.aclose()


def test_without_the_driver_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(MissingDriverError, match=r"middleware\[postgres\]") as caught:
        log_of("postgresql://ann:hush@host/db?password=hush")
    assert "hush" not in str(caught.value)


def test_without_the_driver_sqlite_works_all_the_same() -> None:
    script = (
        "import sys; sys.modules['asyncpg'] = None; import mcp_persist_middleware.middleware;"
        " from mcp_persist_middleware.stores import connect;"
        " from mcp_persist_middleware.settings import Settings;"
        " print(connect.make_log(Settings.load({'url': 'x.db'})).name)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "x.db" in done.stdout


def test_another_kind_of_store_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(ConfigurationError, match="SQLite and PostgreSQL") as caught:
        connect.parse_url("mysql+asyncmy://ann:hush@host/db?ssl_key=hush")
    assert not re.search("hush", str(caught.value))


async def test_a_pooler_that_changes_sessions_is_refused(store: Store) -> None:
    class Pooled:
        """Through a pooler in transaction mode: the session that was let go of last comes first.
        (`tests/packages` has a real one.)"""

        def get_server_pid(self) -> int:
            return 4711

        async def execute(self, _: str) -> None:
            return None

        async def fetchval(self, _: str) -> int:
            return 42

    async def connected() -> tuple[Any, Any]:
        return await log._connect_raw()

    async with opened(log_of(store.url)) as log:
        with pytest.raises(ConfigurationError, match="pool_mode = session"):
            await postgres_engine.check_session(Pooled(), lambda: _pooled(connected, Pooled()), 2.0)
        assert await log.find(record().id) is None


async def _pooled(connected: Any, driver: Any) -> tuple[Any, Any]:
    connection, _ = await connected()
    return connection, driver


async def test_a_closed_log_says_so(store: Store) -> None:
    log = log_of(store.url)
    with pytest.raises(StoreError, match="not open"):
        await log.ping()


async def test_what_cannot_be_sent_is_not_repeated_in_the_error(store: Store) -> None:
    async with opened(log_of(store.url)) as log:
        for find in (log.sessions.find, log.sessions.stream_state):
            with pytest.raises(StoreError, match="invalid input") as caught:
                await find(SessionKey("default", "/mcp", "a-secret-\ud800"))
            assert "secret" not in str(caught.value)


async def test_who_waits_for_a_connection_has_more_time_than_one_attempt(store: Store) -> None:
    async with opened(log_of(store.url, store_timeout=5)) as log:

        async def sleep(driver: Any) -> None:
            await driver.execute("SELECT pg_sleep(1.2)")

        # Four at a time: a turn comes after 2.4 s, and one attempt has 2.
        before = [asyncio.create_task(log.raw(sleep)) for _ in range(8)]
        await asyncio.sleep(0)
        assert await log.sessions.find(SessionKey("default", "/mcp", "s")) is None
        await asyncio.gather(*before)
