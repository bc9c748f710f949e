"""Redis Cluster: each stream in one slot, which moves to another node, or whose node dies, while
the stream is written."""

import asyncio
import contextlib
import os
import random
import signal
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from mcp_persist_middleware.model import StreamRecord
from mcp_persist_middleware.stores.redis.log import RedisLog
from mcp_persist_middleware.testing.contract.builders import (
    COMMITTED,
    add,
    ending,
    events,
    new,
    numbers,
    record,
)
from tests.contract.redis_builders import Place, hold_back, is_up, read_all
from tests.support.scripted import until
from tests.support.stores import RedisServer

pytestmark = pytest.mark.timeout(60)


def port_with_bus() -> int:
    """A free port whose bus, 10,000 above, is free as well: below those that connections are
    given by themselves."""
    while True:
        port = random.randint(12_000, 22_000)
        with contextlib.suppress(OSError):
            for each in (port, port + 10_000):
                socket.create_server(("127.0.0.1", each)).close()
            return port


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[list[RedisServer]]:
    """Three primaries that share the slots."""
    nodes = [
        RedisServer(
            tmp_path / f"node{n}", "--cluster-enabled", "yes", "--cluster-node-timeout", "500"
        )
        for n in range(3)
    ]
    for node in nodes:
        node.port = port_with_bus()
        node.start()
    clients = [redis.Redis(port=node.port) for node in nodes]
    bounds = [0, 5461, 10923, 16384]
    for n, client in enumerate(clients):
        client.execute_command("CLUSTER", "ADDSLOTS", *range(bounds[n], bounds[n + 1]))
        client.execute_command("CLUSTER", "MEET", "127.0.0.1", nodes[0].port)
    deadline = time.monotonic() + 20
    while any(c.execute_command("CLUSTER INFO")["cluster_state"] != "ok" for c in clients):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    for client in clients:
        client.close()
    yield nodes
    for node in nodes:
        node.stop(signal.SIGKILL)


async def test_a_cluster_takes_each_stream_in_one_slot_and_wakes_across_nodes(
    cluster: list[RedisServer], tmp_path: Path
) -> None:
    place = Place(tmp_path, cluster[0])
    place.settings["redis"] = f"redis+cluster://127.0.0.1:{cluster[0].port}"
    streams = [record() for _ in range(30)]
    async with place.worker("one") as one, place.worker("two") as two:
        hold_back(one)
        await one.append([new(stream) for stream in streams])
        for first in range(1, 10, 3):
            batch = [add(stream, *events(first, 3)) for stream in streams]
            assert await one.append(batch) == [COMMITTED] * 30
        held = []
        for node in cluster:
            with contextlib.closing(redis.Redis(port=node.port)) as client:
                held.append(len([k for k in client.scan_iter() if k.endswith(b":c")]))
        assert sum(held) == 30
        assert min(held) > 0
        for stream in streams:
            assert place.in_sql(stream) == []
            assert await numbers(two, stream) == list(range(1, 10))
        subscription = two.wakeups.subscribe(streams[0].id)
        subscription.patience = 3600
        await subscription.wait()
        await asyncio.wait_for(subscription.wait(), 5)
        await one.append([add(streams[0], *events(10, 1))])
        await asyncio.wait_for(subscription.wait(), 5)
        subscription.close()
        # A node that dies takes its streams to SQL, and costs the others nothing.
        assert cluster[1].process is not None
        os.kill(cluster[1].process.pid, signal.SIGKILL)
        number = {stream.id: 10 for stream in streams} | {streams[0].id: 11}
        for stream in streams:
            entry = add(stream, *events(number[stream.id], 1))
            assert await one.append([entry]) == [COMMITTED]
        for stream in streams:
            last = number[stream.id]
            assert [n for n, _ in await read_all(one, stream)] == list(range(1, last + 1))


@pytest.fixture
def place(cluster: list[RedisServer], tmp_path: Path) -> Place:
    """A SQLite file behind the cluster."""
    made = Place(tmp_path, cluster[0])
    made.settings["redis"] = f"redis+cluster://127.0.0.1:{cluster[0].port}"
    return made


class Writer:
    """Appends one event after the other to a stream, for as long as it is told to."""

    def __init__(self, log: RedisLog, stream: StreamRecord) -> None:
        self.log = log
        self.stream = stream
        self.last = 0
        self._over = False

    async def write(self) -> None:
        """One more event."""
        entry = add(self.stream, *events(self.last + 1, 1))
        assert await self.log.append([entry]) == [COMMITTED]
        self.last += 1

    async def _run(self) -> None:
        while not self._over:
            await self.write()
            await asyncio.sleep(0)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """It writes meanwhile."""
        task = asyncio.create_task(self._run())
        try:
            yield
        finally:
            self._over = True
            await task

    async def more(self, count: int) -> None:
        """Return when it has written so many more."""
        goal = self.last + count
        await until(lambda: self.last >= goal)


def said(node: RedisServer, *command: Any) -> Any:
    """What a node answers."""
    with contextlib.closing(redis.Redis(port=node.port)) as client:
        return client.execute_command(*command)


def chunks_on(node: RedisServer, log: RedisLog, stream: StreamRecord) -> int:
    """How much of a stream a node holds, whoever asks."""
    key = log._keys.of(stream.id)[1].encode()
    with contextlib.closing(redis.Redis(port=node.port)) as client:
        return sum(1 for each in client.scan_iter() if each == key)


async def test_a_slot_that_moves_while_its_stream_is_written_costs_and_doubles_nothing(
    cluster: list[RedisServer], place: Place
) -> None:
    stream = record()
    async with place.worker("one") as one, place.worker("two") as two:
        await one.append([new(stream)])
        writer = Writer(one, stream)
        async with writer.running():
            await writer.more(20)
            (home,) = [node for node in cluster if chunks_on(node, one, stream)]
            for target in [node for node in cluster if node is not home]:
                slot = said(home, "CLUSTER", "KEYSLOT", one._keys.of(stream.id)[1])
                ids = {node.port: said(node, "CLUSTER", "MYID") for node in (home, target)}
                said(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", ids[home.port])
                said(home, "CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target.port])
                await writer.more(20)
                # One key after the other: between two of them the stream is on both nodes.
                while keys := said(home, "CLUSTER", "GETKEYSINSLOT", slot, 1):
                    said(home, "MIGRATE", "127.0.0.1", target.port, keys[0], 0, 5000)
                    await writer.more(20)
                for node in (target, home):
                    said(node, "CLUSTER", "SETSLOT", slot, "NODE", ids[target.port])
                await writer.more(20)
                home = target
                # It goes on in Redis, where the slot is now.
                await until(lambda: chunks_on(target, one, stream))
        await is_up(one)
        for log in (one, two):
            found = await read_all(log, stream)
            assert found == [(n, 1) for n in range(1, writer.last + 1)]
        await one.append([add(stream, ending=ending(writer.last))])
        assert place.in_sql(stream) == list(range(1, writer.last + 1))


async def test_a_master_that_dies_is_replaced_by_its_replica_and_nothing_is_lost_or_doubled(
    cluster: list[RedisServer], place: Place, tmp_path: Path
) -> None:
    options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "500")
    replica = RedisServer(tmp_path / "replica", *options)
    replica.port = port_with_bus()
    replica.start()
    stream = record()
    try:
        async with place.worker("one") as one, place.worker("two") as two:
            await one.append([new(stream)])
            writer = Writer(one, stream)
            async with writer.running():
                await writer.more(20)
                (home,) = [node for node in cluster if chunks_on(node, one, stream)]
                said(replica, "CLUSTER", "MEET", "127.0.0.1", home.port)
                known = said(home, "CLUSTER", "MYID")
                await until(lambda: known in said(replica, "CLUSTER", "NODES"))
                said(replica, "CLUSTER", "REPLICATE", known)
                await until(lambda: said(home, "WAIT", 1, 10) == 1)
                # The others have a say in who follows.
                for node in cluster:
                    await until(lambda: b"slave " + known in said(node, "CLUSTER", "NODES"))
                await writer.more(20)
                home.stop(signal.SIGKILL)
                # On it goes in SQL, and in the new master when there is one.
                await writer.more(20)
                await until(lambda: said(replica, "ROLE")[0] == b"master", 30)
                await is_up(one)
                await until(lambda: chunks_on(replica, one, stream), 30)
                await writer.more(20)
            await is_up(two)
            for log in (one, two):
                found = await read_all(log, stream)
                assert found == [(n, 1) for n in range(1, writer.last + 1)]
            await one.append([add(stream, ending=ending(writer.last))])
            assert place.in_sql(stream) == list(range(1, writer.last + 1))
    finally:
        replica.stop(signal.SIGKILL)


async def test_a_cluster_that_is_down_stops_no_start_and_is_waited_for(
    cluster: list[RedisServer], place: Place
) -> None:
    cluster[2].stop(signal.SIGKILL)
    await until(lambda: b"cluster_state:fail" in said(cluster[0], "CLUSTER", "INFO"))
    stream = record()
    async with place.worker("one") as one:
        assert not one._client.is_up
        assert await one.append([new(stream, *events(1, 1))]) == [COMMITTED]
        cluster[2].start()
        await is_up(one)
