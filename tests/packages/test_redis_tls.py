"""Redis over TLS: the server that was meant, or none."""

import asyncio
import contextlib
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import redis

from mcp_persist_middleware.errors import ConfigurationError, StoreUnavailableError
from mcp_persist_middleware.settings import Settings
from mcp_persist_middleware.stores import connect
from mcp_persist_middleware.stores.redis.log import RedisLog
from mcp_persist_middleware.testing.contract.builders import (
    COMMITTED,
    add,
    events,
    new,
    numbers,
    record,
)
from tests.contract.test_redis_cluster import port_with_bus
from tests.faults.test_postgres import all_have_ids, load
from tests.support.certificates import Authority
from tests.support.packaged import TlsRedis
from tests.support.scripted import until
from tests.support.stores import free_port

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


async def writes(log: RedisLog) -> None:
    """It takes events, in Redis."""
    await log.open("one")
    assert log._client.is_up
    stream = record()
    assert await log.append([new(stream)]) == [COMMITTED]
    assert await log.append([add(stream, *events(1, 3))]) == [COMMITTED]
    buffer = log._buffers.get(stream.id)
    assert buffer is not None
    assert buffer.begun
    await log.aclose()


async def test_sentinel_and_its_server_are_asked_over_it(
    tls_redis: TlsRedis, tmp_path: Path
) -> None:
    port, made = free_port(), tls_redis.authority.issue("sentinel")
    whom = tls_redis.authority.certificate
    config = tmp_path / "sentinel.conf"
    config.write_text(
        f"port 0\ntls-port {port}\nbind 127.0.0.1\ndir {tmp_path}\n"
        f"tls-cert-file {made.certificate}\ntls-key-file {made.key}\ntls-ca-cert-file {whom}\n"
        "tls-auth-clients no\ntls-replication yes\n"
        f"sentinel monitor main 127.0.0.1 {tls_redis.port} 1\n"
    )
    command = [tls_redis._program, str(config), "--sentinel"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)  # noqa: ASYNC220
    try:
        options = tls_redis._client_options()
        with contextlib.closing(redis.Redis("127.0.0.1", port, **options)) as watch:
            await until(lambda: answers(watch))
        asked = urlencode({"ssl_ca_certs": str(whom)})
        await writes(log_of(tmp_path, f"rediss+sentinel://127.0.0.1:{port}/main/0?{asked}"))
    finally:
        process.kill()
        process.wait()


async def test_a_cluster_is_asked_over_it(tmp_path: Path) -> None:
    server = TlsRedis(tmp_path / "redis", Authority(tmp_path / "tls"))
    server._arguments += ("--cluster-enabled", "yes", "--tls-cluster", "yes")
    server.port = port_with_bus()
    server.start()
    try:
        options = server._client_options()
        with contextlib.closing(redis.Redis("127.0.0.1", server.port, **options)) as client:
            client.execute_command("CLUSTER", "ADDSLOTS", *range(16384))
            await until(lambda: b"cluster_state:ok" in client.execute_command("CLUSTER", "INFO"))
        await writes(
            log_of(tmp_path, server.url().replace("rediss:", "rediss+cluster:").replace("/0?", "?"))
        )
    finally:
        server.stop()


def answers(client: redis.Redis) -> bool:
    """Whether somebody is there."""
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False
