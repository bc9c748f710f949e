"""pgbouncer: a pool in session mode is as good as the server, any other is refused at the start."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import asyncpg
import pytest

from mcp_persist_middleware.errors import PersistError
from mcp_persist_middleware.settings import Settings
from mcp_persist_middleware.stores import connect
from tests.faults.test_postgres import all_have_ids, load
from tests.support.packaged import Pgbouncer, Postgres15
from tests.support.stores import drop_database, new_database

pytestmark = [pytest.mark.packages, pytest.mark.timeout(60)]


@pytest.fixture
def place(postgres_15: Postgres15) -> Iterator[str]:
    """A database of this test's own."""
    url = new_database(postgres_15.url())
    yield url.partition("?")[0].rpartition("/")[2]
    drop_database(url)


@contextmanager
def pooled(server: Postgres15, mode: str, **options: object) -> Iterator[Pgbouncer]:
    """A pgbouncer of this test's own."""
    directory = server.directory.parent / f"pool-{mode}-{len(options)}"
    made = Pgbouncer(directory, server, mode, **options)
    made.start()
    try:
        yield made
    finally:
        made.stop()


async def refusal(url: str) -> str:
    """What the start-up ends with."""
    with pytest.raises(PersistError) as caught:
        await connect.make_log(Settings.load({"url": url}, {})).open("one")
    return str(caught.value)


async def idle_sessions(url: str, count: int) -> None:
    """Leave the pool with so many sessions of the server that nobody uses."""
    plain = url.replace("+asyncpg", "")
    clients = [await asyncpg.connect(plain) for _ in range(count)]
    for client in clients:
        await client.execute("BEGIN")
        await client.execute("SELECT 1")
    for client in clients:
        await client.execute("COMMIT")
        await client.close()


@pytest.mark.parametrize("idle", [0, 2, 3, 8])
@pytest.mark.parametrize("order", [{}, {"server_round_robin": 1}], ids=["last", "round-robin"])
async def test_a_pool_in_transaction_mode_is_refused_whatever_it_has_and_however_it_chooses(
    postgres_15: Postgres15, place: str, order: dict[str, Any], idle: int
) -> None:
    with pooled(postgres_15, "transaction", **order) as pool:
        await idle_sessions(pool.url(place), idle)
        assert "pooler in transaction mode" in await refusal(pool.url(place))


async def test_a_pool_in_statement_mode_is_refused(postgres_15: Postgres15, place: str) -> None:
    with pooled(postgres_15, "statement") as pool:
        assert "pool_mode = session" in await refusal(pool.url(place))


async def test_a_pooler_that_is_restarted_under_load_costs_time_and_nothing_else(
    postgres_15: Postgres15, place: str
) -> None:
    with pooled(postgres_15, "session") as pool:
        async with load(pool.url(place)) as (_, calls):
            pool.stop()
            await asyncio.sleep(0.5)
            pool.start()
        all_have_ids(calls)
