"""PostgreSQL over TLS: every connection is, to the server that was meant and to no other."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import make_url

from mcp_persist_middleware.errors import ConfigurationError, StoreUnavailableError
from mcp_persist_middleware.settings import Settings
from mcp_persist_middleware.stores import connect
from mcp_persist_middleware.testing.contract.builders import COMMITTED, events, new, record
from tests.contract.postgres import somebody
from tests.support.certificates import Authority
from tests.support.packaged import Postgres15
from tests.support.stores import Store

pytestmark = [pytest.mark.packages, pytest.mark.timeout(60)]


def changed(url: str, **query: str) -> str:
    """The URL with other words in its query."""
    place = make_url(url)
    return place.set(query=dict(place.query) | query).render_as_string(hide_password=False)


async def refusal(url: str) -> str:
    """What the start-up ends with."""
    with pytest.raises(StoreUnavailableError) as caught:
        await connect.make_log(Settings.load({"url": url}, {})).open("one")
    return str(caught.value)


async def test_it_is_the_oldest_version_that_is_supported(postgres_15: Postgres15) -> None:
    async with somebody(Store("x", {"url": postgres_15.url()})) as them:
        assert int(await them.fetchval("SHOW server_version_num")) // 10_000 == 15


async def test_every_connection_of_a_worker_is_encrypted(
    new_postgres_15: Callable[[], str],
) -> None:
    url = new_postgres_15()
    log = connect.make_log(Settings.load({"url": url}, {}))
    await log.open("one")
    table = log.worker_table()
    assert (await table.look()).keys() == {"one"}
    assert await log.append([new(record(), *events(1, 1))]) == [COMMITTED]
    async with somebody(Store("x", {"url": url})) as them:
        backends = (
            "SELECT s.ssl FROM pg_stat_ssl AS s JOIN pg_stat_activity AS a USING (pid)"
            " WHERE a.datname = current_database() AND a.pid <> pg_backend_pid()"
        )
        found: list[bool] = []
        async with asyncio.timeout(10):
            # The writer, the wake-ups, the heartbeat.
            while len(found) < 3:
                found = [row[0] for row in await them.fetch(backends)]
                await asyncio.sleep(0.01)
    assert all(found)
    await table.aclose()
    await log.aclose()


@pytest.mark.parametrize("mode", ["verify-full", "verify-ca"])
async def test_a_server_of_another_authority_is_refused_with_the_fix(
    new_postgres_15: Callable[[], str], tmp_path: Path, mode: str
) -> None:
    other = Authority(tmp_path, "other").certificate
    said = await refusal(changed(new_postgres_15(), sslmode=mode, sslrootcert=str(other)))
    assert "certificate verify failed" in said
    assert "Check sslmode and sslrootcert in the URL" in said


async def test_a_server_that_has_another_name_is_refused_where_names_count(
    new_postgres_15: Callable[[], str],
) -> None:
    url = make_url(new_postgres_15()).set(host="localhost").render_as_string(hide_password=False)
    said = await refusal(url)
    assert "localhost" in said
    assert "Check sslmode and sslrootcert in the URL" in said
    log = connect.make_log(Settings.load({"url": changed(url, sslmode="verify-ca")}, {}))
    await log.open("one")
    await log.aclose()
    # A name is looked up in a thread of the loop's.
    await asyncio.get_running_loop().shutdown_default_executor()


async def test_an_authority_that_is_not_there_is_named(
    new_postgres_15: Callable[[], str],
) -> None:
    url = changed(new_postgres_15(), sslrootcert="/no/such/ca.pem")
    with pytest.raises(ConfigurationError, match=r"sslrootcert.*none at /no/such/ca"):
        await connect.make_log(Settings.load({"url": url}, {})).open("one")


async def test_a_server_that_asks_for_tls_says_so_to_who_will_not(
    new_postgres_15: Callable[[], str],
) -> None:
    said = await refusal(changed(new_postgres_15(), sslmode="disable"))
    assert "no encryption" in said
