"""Redis fails under load, in every way that it can, and workers die with what only Redis has: a
client sees each event once, to the end, and the service goes on by itself."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import redis

from tests.contract.test_redis_server import sentinel
from tests.faults.test_postgres import all_have_ids, load
from tests.faults.workers import Workers, elsewhere, error_of, numbers
from tests.support.redis_faults import die_and_forget, forget, lose_connections
from tests.support.scripted import until
from tests.support.session import RawSession
from tests.support.stores import STORES, RedisServer

pytestmark = pytest.mark.timeout(90)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """A server that may be hurt."""
    made = RedisServer(tmp_path / "redis")
    made.start()
    yield made
    made.stop(signal.SIGKILL)


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """SQL below."""
    return STORES[request.param](tmp_path, request.getfixturevalue).url


def client_of(server: RedisServer) -> redis.Redis:
    return redis.Redis(port=server.port)


async def freeze(server: RedisServer) -> None:
    assert server.process is not None
    os.kill(server.process.pid, signal.SIGSTOP)
    await asyncio.sleep(5)
    os.kill(server.process.pid, signal.SIGCONT)


async def run_out_of_memory(server: RedisServer) -> None:
    with contextlib.closing(client_of(server)) as client:
        client.config_set("maxmemory", "1")
        await asyncio.sleep(0.5)
        client.config_set("maxmemory", "0")


async def leave_no_connection(server: RedisServer) -> None:
    with contextlib.closing(client_of(server)) as client:
        client.config_set("maxclients", "1")
        client.client_kill_filter(_type="normal", skipme=True)
        client.client_kill_filter(_type="pubsub")
        await asyncio.sleep(1)
        assert client.info("stats")["rejected_connections"] > 0
        client.config_set("maxclients", "1000")


FAULTS = [
    forget,
    die_and_forget,
    freeze,
    run_out_of_memory,
    lose_connections,
    leave_no_connection,
]


@pytest.mark.parametrize("fault", FAULTS)
async def test_no_fault_of_redis_costs_an_event_or_doubles_one(
    server: RedisServer, url: str, fault: Callable[[RedisServer], Awaitable[None]]
) -> None:
    async with load(url, redis=server.url()) as (_, calls):
        await fault(server)
    all_have_ids(calls)


async def test_redis_that_keeps_its_memory_over_a_crash_goes_on(tmp_path: Path) -> None:
    server = RedisServer(tmp_path / "aof", "--appendonly", "yes", "--appendfsync", "always")
    server.start()
    try:
        async with load(str(tmp_path / "events.db"), redis=server.url()) as (_, calls):
            await die_and_forget(server)
        all_have_ids(calls)
    finally:
        server.stop(signal.SIGKILL)


async def test_a_failover_costs_no_event_and_doubles_none(
    server: RedisServer, url: str, tmp_path: Path
) -> None:
    replica = RedisServer(tmp_path / "replica", "--replicaof", "127.0.0.1", str(server.port))
    replica.start()
    try:
        async with sentinel(tmp_path, server.port) as port:
            with contextlib.closing(redis.Redis(port=port)) as watch:
                await until(lambda: watch.execute_command("SENTINEL", "REPLICAS", "main"))
            through = f"redis+sentinel://127.0.0.1:{port}/main/0"
            with contextlib.closing(client_of(replica)) as client:
                async with load(url, redis=through) as (_, calls):
                    server.stop(signal.SIGKILL)
                    await until(lambda: client.info("replication")["role"] == "master", 20)
            all_have_ids(calls)
    finally:
        replica.stop(signal.SIGKILL)


@pytest.fixture
def workers(tmp_path: Path, server: RedisServer) -> Workers:
    """Workers on one file, behind Redis."""
    return Workers(tmp_path, redis=server.url(), lease_seconds=4.0, store_timeout=2.0)


async def test_what_a_killed_worker_had_only_in_redis_reaches_its_client(workers: Workers) -> None:
    async with workers.running("one", "two") as (one, two):
        session = await RawSession.open(one.port)
        response = await session.call("count", n=1000, delay=0.02)
        seen = await response.take(5)
        with workers.store.locked():
            # From here on SQL takes nothing.
            seen += await response.take(20)
            held = len(workers.store.events(seen[0].id))
            await one.kill()
        assert held < len(seen)
        began = time.monotonic()
        reader = await elsewhere(session, two).get(seen[-1].id)
        seen += [frame async for frame in reader.frames() if frame.data]
        assert time.monotonic() - began < 8
        assert numbers(seen) == list(range(1, len(seen) + 1))
        assert error_of(seen)["data"]["events"] == len(seen) - 1
        epochs = [epoch for _, epoch in workers.store.events(seen[0].id)]
        assert epochs == [1] * (len(seen) - 1) + [2]


@pytest.mark.parametrize("ahead", [1, 20])
async def test_a_client_that_saw_what_redis_and_its_worker_lost_gets_the_end(
    workers: Workers, server: RedisServer, ahead: int
) -> None:
    """The one exception of a Redis in front."""
    async with workers.running("one", "two") as (one, two):
        session = await RawSession.open(one.port)
        response = await session.call("count", n=1000, delay=0.02)
        seen = await response.take(5)
        with workers.store.locked():
            held = len(workers.store.events(seen[0].id))
            while numbers(seen)[-1] < held + ahead:
                seen += await response.take(1)
            await one.kill()
            with contextlib.closing(client_of(server)) as client:
                client.flushall()
        async with asyncio.timeout(10):
            last = next(f for f in seen if f.data and numbers([f]) == [held + ahead])
            reader = await elsewhere(session, two).get(last.id)
            rest = [frame async for frame in reader.frames() if frame.data]
        assert reader.status == 200
        assert len(rest) == 1
        assert error_of(rest)["data"]["events"] == held
        again = await elsewhere(session, two).get(rest[-1].id)
        assert again.status == 204


async def test_a_worker_that_stops_leaves_nothing_that_only_redis_has(
    workers: Workers, server: RedisServer
) -> None:
    async with workers.running("one", "two") as (one, two):
        session = await RawSession.open(one.port)
        response = await session.call("count", n=30, delay=0.01)
        seen = await response.take(10)
        await one.terminate()
        with contextlib.closing(client_of(server)) as client:
            client.flushall()
        reader = await elsewhere(session, two).get(seen[-1].id)
        seen += [frame async for frame in reader.frames() if frame.data]
        assert numbers(seen) == list(range(1, len(seen) + 1))
        assert seen[-1].is_response


async def test_redis_that_is_away_at_the_start_stops_no_server(
    workers: Workers, server: RedisServer
) -> None:
    server.stop(signal.SIGKILL)
    async with workers.running("one", "two") as (one, two):
        session = await RawSession.open(one.port)
        response = await session.call("count", n=5, delay=0.01)
        seen = [frame async for frame in response.frames() if frame.data]
        assert "result" in seen[-1].message
        await one.wait_for_log(r"away \(|away$")
        server.start()
        await one.wait_for_log(r"\bback\.")
        await two.wait_for_log(r"\bback\.")
        response = await session.call("count", n=20, delay=0.02)
        seen = await response.take(3)
        reader = await elsewhere(session, two).get(seen[-1].id)
        seen += [frame async for frame in reader.frames() if frame.data]
        assert numbers(seen) == list(range(1, 22))
        with contextlib.closing(client_of(server)) as client:
            await until(lambda: client.info("commandstats")["cmdstat_xadd"]["calls"] > 0)
        assert "Traceback" not in one.log + two.log
