"""Redis over TLS: the server that was meant, or none."""

import asyncio
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from mcp_persist_middleware.errors import ConfigurationError, StoreUnavailableError
from mcp_persist_middleware.log import connect
from mcp_persist_middleware.log.redis.log import RedisLog
from mcp_persist_middleware.settings import Settings
from tests.contract.builders import COMMITTED, add, events, new, numbers, record
from tests.faults.test_postgres import all_have_ids, load
from tests.support.certificates import Authority
from tests.support.packaged import TlsRedis

pytestmark = [pytest.mark.packages, pytest.mark.timeout(60)]


def log_of(directory: Path, redis: str, **more: Any) -> RedisLog:
    """A log behind a Redis."""
    given = {"url": str(directory / "events.db"), "redis": redis}
    made = connect.make_log(Settings.load(given | more, {}))
    assert isinstance(made, RedisLog)
    return made


async def test_events_and_wake_ups_go_over_it(tls_redis: TlsRedis, tmp_path: Path) -> None:
    stream = record()
    one, two = (log_of(tmp_path, tls_redis.url()) for _ in range(2))
    await one.open("one")
    await two.open("two")
    assert one._client.is_up
    assert await one.append([new(stream)]) == [COMMITTED]
    subscription = two.wakeups.subscribe(stream.id)
    subscription.patience = 3600
    await subscription.wait()
    await subscription.wait()
    assert await one.append([add(stream, *events(1, 3))]) == [COMMITTED]
    await subscription.wait()
    assert await numbers(two, stream) == [1, 2, 3]
    subscription.close()
    await two.aclose()
    await one.aclose()


async def test_a_server_of_another_authority_stops_the_start_with_the_fix(
    tls_redis: TlsRedis, tmp_path: Path
) -> None:
    other = Authority(tmp_path, "other").certificate
    with pytest.raises(StoreUnavailableError, match="not trusted") as caught:
        await log_of(tmp_path, tls_redis.url(trusted=other)).open("one")
    assert "?ssl_ca_certs=" in str(caught.value)


async def test_the_authorities_of_the_system_are_asked_where_none_is_named(
    tls_redis: TlsRedis, tmp_path: Path
) -> None:
    with pytest.raises(StoreUnavailableError, match="not trusted"):
        await log_of(tmp_path, tls_redis.url().partition("?")[0]).open("one")


async def test_a_server_that_has_another_name_stops_the_start(
    tls_redis: TlsRedis, tmp_path: Path
) -> None:
    with pytest.raises(StoreUnavailableError, match=r"not trusted.*localhost"):
        await log_of(tmp_path, tls_redis.url().replace("127.0.0.1", "localhost")).open("one")
    # A name is looked up in a thread of the loop's.
    await asyncio.get_running_loop().shutdown_default_executor()


def test_an_authority_that_is_not_there_is_named(tmp_path: Path) -> None:
    whom = urlencode({"ssl_ca_certs": "/no/such/ca.pem"})
    with pytest.raises(ConfigurationError, match=r"there is none at /no/such/ca"):
        log_of(tmp_path, f"rediss://:hush@127.0.0.1/0?{whom}")


async def test_a_server_that_is_restarted_under_load_costs_no_event_and_doubles_none(
    tmp_path: Path,
) -> None:
    server = TlsRedis(tmp_path / "redis", Authority(tmp_path / "tls"))
    server.start()
    try:
        async with load(str(tmp_path / "events.db"), redis=server.url()) as (_, calls):
            server.stop()
            server.start()
        all_have_ids(calls)
    finally:
        server.stop()
