"""The primary of a PostgreSQL with a standby dies, and the standby takes its place: what becomes of
what clients had seen, where the primary waits for its standby and where it does not."""

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import asyncpg
import pytest

from mcp_persist_middleware.errors import StoreUnavailableError
from mcp_persist_middleware.persistence import access_to
from mcp_persist_middleware.settings import Settings
from mcp_persist_middleware.stores import connect
from mcp_persist_middleware.testing.contract.builders import COMMITTED, events, new, record
from tests.faults.test_postgres import administer, all_have_ids, count, in_thread, load
from tests.support.scripted import Call, Scripted, persisted, until
from tests.support.session import RawSession
from tests.support.stores import PostgresServer, free_port, new_database, place_for_postgres
from tests.support.wire import Wire

pytestmark = pytest.mark.timeout(90)


@dataclass
class Pair:
    """A primary, its standby, and a database on both."""

    primary: PostgresServer
    standby: PostgresServer
    database: str = ""

    @property
    def url(self) -> str:
        """Both, as one writes it for libpq; the standby first."""
        hosts = f"127.0.0.1:{self.standby.port},127.0.0.1:{self.primary.port}"
        return f"postgresql://postgres@{hosts}/{self.database}"

    async def fail_over(self) -> None:
        """The primary is gone, and somebody makes the standby the primary."""
        await in_thread(self.primary.kill)
        await asyncio.sleep(0.5)
        await in_thread(self.standby.promote)


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Both, started; the standby is not waited for."""
    with place_for_postgres() as directory:
        options = {"max_connections": "50", "fsync": "off"}
        primary = PostgresServer(directory / "primary", options)
        primary.start()
        standby = primary.copy(directory / "standby")
        standby.start()
        yield Pair(primary, standby)
        for each in (standby, primary):
            with contextlib.suppress(Exception):
                each.stop("immediate")


async def follows(pair: Pair) -> None:
    """Return when the standby has all that the primary has."""
    connection = await asyncpg.connect(pair.primary.url().replace("+asyncpg", ""))
    behind = (
        "SELECT count(*) FROM pg_stat_replication"
        " WHERE state = 'streaming' AND replay_lsn >= pg_current_wal_lsn()"
    )
    try:
        async with asyncio.timeout(20):
            while not await connection.fetchval(behind):
                await asyncio.sleep(0.05)
    finally:
        await connection.close()


async def make_database(pair: Pair) -> None:
    """An empty one, which the standby has as well."""
    pair.database = new_database(pair.primary.url()).rpartition("/")[2]
    await follows(pair)


async def cut_off(pair: Pair) -> None:
    """The standby hears nothing more of the primary."""
    nobody = f"host=127.0.0.1 port={free_port()} user=postgres"
    await administer(
        pair.standby.url(),
        f"ALTER SYSTEM SET primary_conninfo = '{nobody}'",
        "SELECT pg_reload_conf()",
    )
    connection = await asyncpg.connect(pair.primary.url().replace("+asyncpg", ""))
    try:
        async with asyncio.timeout(20):
            while await connection.fetchval("SELECT count(*) FROM pg_stat_replication"):
                await asyncio.sleep(0.05)
    finally:
        await connection.close()


async def test_with_a_standby_that_is_waited_for_a_failover_costs_time_and_nothing_else(
    pair: Pair,
) -> None:
    await administer(
        pair.primary.url(),
        "ALTER SYSTEM SET synchronous_standby_names = '*'",
        "SELECT pg_reload_conf()",
    )
    await make_database(pair)
    async with load(pair.url) as (_, calls):
        await pair.fail_over()
    all_have_ids(calls)


class Steps:
    """A tool that goes on when it is told to."""

    def __init__(self) -> None:
        self._go = asyncio.Semaphore(0)

    def go(self, times: int = 1) -> None:
        for _ in range(times):
            self._go.release()

    async def __call__(self, call: Call) -> None:
        await call.head()
        for value in range(1, 9):
            await self._go.acquire()
            await call.progress(value)
        await call.result()


async def test_what_a_standby_that_is_not_waited_for_lacks_is_told_and_never_passed_over(
    pair: Pair,
) -> None:
    """The one exception of asynchronous replication."""
    await make_database(pair)
    steps, late = Steps(), Steps()
    app = Scripted(steps=steps, late=late, count=count)
    async with persisted(app, pair.url, store_timeout=9.0, lease_seconds=30.0) as (port, held):
        session = await RawSession.open(port)
        old = await session.call("steps")
        steps.go(4)
        seen = await old.take(4)
        await follows(pair)
        lag = (await held.health()).replication_lag
        assert lag is not None
        assert 0 <= lag < 60
        await cut_off(pair)
        # Two events that the standby does not get, and a call of which it does not know.
        steps.go(2)
        seen += await old.take(2)
        young = await session.call("late")
        late.go(2)
        lost = await young.take(2)
        await pair.fail_over()
        late.go(6)
        steps.go(2)
        # The client that was there throughout: all events, each once, and the answer.
        seen += await old.take(3)
        assert [frame.progress for frame in seen] == [*range(1, 9), None]
        # One that comes back behind the loss is told how many are gone.
        again = await session.get(seen[2].id)
        rest = [frame async for frame in again.frames()]
        assert [f.progress for f in rest if f.data] == [4, 7, 8, None]
        assert any("gap: 2 events" in (f.comment or "") for f in rest)
        # The call that the standby knows nothing of ends with an error, for who comes back as well.
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            lost += [frame async for frame in young.frames() if frame.data]
        # As long as its answer waits for the store, who comes back is given that.
        writer = (await access_to(held).context()).writer
        await until(lambda: not writer.is_down and not writer.live)
        back = await session.get(lost[1].id)
        told = [frame async for frame in back.frames() if frame.data]
        assert "error" in told[-1].message
        fresh = await (await RawSession.open(port)).call("count")
        assert all([frame.id async for frame in fresh.frames() if frame.data]), "and on it goes"


async def test_of_several_hosts_the_one_that_takes_writes_is_found(pair: Pair) -> None:
    await make_database(pair)
    bare = f"postgresql+asyncpg://postgres@/{pair.database}"
    forms = [
        pair.url,
        f"{bare}?host=127.0.0.1:{pair.standby.port}&host=127.0.0.1:{pair.primary.port}",
        f"{bare}?host=127.0.0.1,127.0.0.1&port={pair.standby.port},{pair.primary.port}",
        # Nobody listens there.
        pair.url.replace(str(pair.standby.port), str(free_port())),
    ]
    for url in forms:
        log = connect.make_log(Settings.load({"url": url}, {}))
        await log.open("one")
        assert await log.append([new(record(), *events(1, 1))]) == [COMMITTED]
        table = log.worker_table()
        assert (await table.look()).keys() == {"one"}
        await table.aclose()
        await log.aclose()


async def test_a_host_that_is_gone_without_a_word_costs_its_share_of_the_time(pair: Pair) -> None:
    await make_database(pair)
    async with Wire(pair.standby.port) as wire:
        wire.hold()
        url = pair.url.replace(str(pair.standby.port), str(wire.port))
        log = connect.make_log(Settings.load({"url": url, "store_timeout": 4}, {}))
        await log.open("one")
        tried = wire.accepted
        await asyncio.gather(*(log.find(record().id) for _ in range(50)))
        assert wire.accepted == tried, "it is not asked each time"
        await log.aclose()


async def test_a_standby_alone_is_refused_with_the_fix(pair: Pair) -> None:
    await make_database(pair)
    for url in (
        pair.url.replace(str(pair.primary.port), str(free_port())),
        pair.standby.url(pair.database),
    ):
        log = connect.make_log(Settings.load({"url": url}, {}))
        with pytest.raises(StoreUnavailableError) as caught:
            await log.open("one")
        assert str(pair.standby.port) in str(caught.value) or "primary" in str(caught.value)
