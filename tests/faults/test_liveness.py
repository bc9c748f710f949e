"""Workers that are killed, stopped and cut off: every call ends, none runs twice."""

import asyncio
import datetime as dt
import os
import signal
import time
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.faults.workers import Workers, elsewhere, error_of, numbers
from tests.support.processes import ServerProcess, stand_still
from tests.support.scripted import until
from tests.support.session import RawSession
from tests.support.sse_client import Frame, Response

LEASE = 2.0


@pytest.fixture
def workers(tmp_path: Path) -> Workers:
    """Workers whose lease is short."""
    return Workers(tmp_path, lease_seconds=LEASE, store_timeout=1.0, drain_seconds=1)


async def rest(response: Response) -> list[Frame]:
    """All that still comes, down to the clean end."""
    return [frame async for frame in response.frames() if frame.data]


@asynccontextmanager
async def stopped(server: ServerProcess, workers: Workers):
    """The process stands still meanwhile."""
    stand_still(server, workers.store)
    try:
        yield
    finally:
        os.kill(server.pid, signal.SIGCONT)


async def test_a_call_whose_worker_is_killed_ends_at_once_for_whoever_reads_elsewhere(
    tmp_path: Path,
) -> None:
    # The default lease: here it is the file lock that tells.
    workers = Workers(tmp_path)
    async with workers.running("one", "two") as (one, two):
        session = await RawSession.open(one.port)
        response = await session.call("count", n=1000, delay=0.05)
        seen = await response.take(3)
        reader = await elsewhere(session, two).get(seen[-1].id)
        seen += await reader.take(2)
        await one.kill()
        began = time.monotonic()
        seen += await rest(reader)
        assert time.monotonic() - began < 5
        assert numbers(seen) == list(range(1, len(seen) + 1))
        data = error_of(seen)["data"]
        assert data["events"] == len(seen) - 1
        assert seen[0].id.startswith(data["stream"])
        last_seen = dt.datetime.fromisoformat(data["lastSeen"])
        assert 0 <= time.time() - last_seen.timestamp() < 20
        # Nobody was reading that one: the orphan reaper ended it as well, and the row is gone.
        again = await elsewhere(session, two).get(seen[0].id)
        assert numbers(await rest(again)) == numbers(seen)[1:]
        await until(lambda: len(workers.store.workers()) == 1)


async def test_a_worker_that_shuts_down_says_so_and_leaves_no_row(workers: Workers) -> None:
    async with workers.running("one", "two") as (one, two):
        session = await RawSession.open(one.port)
        response = await session.call("count", n=1000, delay=0.05)
        seen = await response.take(1)
        name = workers.store.worker_of(seen[0].id)
        ending = asyncio.create_task(one.terminate())
        await until(lambda: workers.store.workers()[name][1] == 1)
        response.reset()
        await ending
        assert name not in workers.store.workers()
        reader = await elsewhere(session, two).get(seen[0].id)
        assert error_of(await rest(reader))


async def test_a_worker_that_was_stopped_for_a_lease_wakes_as_another_one(
    workers: Workers,
) -> None:
    async with workers.running("one", "two") as (one, two):
        session = await RawSession.open(one.port)
        response = await session.call("count", n=1000, delay=0.05)
        seen = await response.take(3)
        name = workers.store.worker_of(seen[0].id)
        reader = await elsewhere(session, two).get(seen[-1].id)
        seen += await reader.take(2)
        async with stopped(one, workers):
            began = time.monotonic()
            # They sit in the sockets of a process that does not run.
            queued = asyncio.gather(*(session.call("slow", seconds=0.01) for _ in range(20)))
            seen += await rest(reader)
            assert time.monotonic() - began < LEASE + 3
            assert numbers(seen) == list(range(1, len(seen) + 1))
            assert error_of(seen)["data"]["events"] == len(seen) - 1
            stored = workers.store.events(seen[0].id)
            assert stored[-1][1] == 2, "the error is in a new epoch"
            assert not queued.done()
        # Its own client's connection ends in order, without an answer of its own.
        own = await rest(response)
        assert not any(frame.is_response for frame in own)
        assert {response.status for response in await queued} == {503}
        await one.wait_for_log("stood still")
        after = await _served_again(session)
        assert workers.store.worker_of(after[0].id) not in (name, "")
        assert workers.store.events(seen[0].id) == stored
        assert "slow 0.01 started" not in one.log
        await until(lambda: name not in workers.store.workers())
        assert len(workers.store.workers()) == 2
        assert "Traceback" not in one.log


async def _served_again(session: RawSession) -> list[Frame]:
    """A call that is repeated, as clients do, until the worker has its new lease."""
    async with asyncio.timeout(10):
        while (response := await session.call("count", n=3, delay=0)).status == 503:
            assert response.headers["retry-after"] == "1"
            await asyncio.sleep(0.05)
    frames = await rest(response)
    assert numbers(frames) == [1, 2, 3, 4]
    assert "result" in frames[-1].message
    return frames


async def test_a_stopped_worker_that_is_alone_ends_its_own_streams_when_it_wakes(
    workers: Workers,
) -> None:
    async with workers.running("one") as (one,):
        session = await RawSession.open(one.port)
        response = await session.call("count", n=1000, delay=0.05)
        seen = await response.take(2)
        async with stopped(one, workers):
            # The length of the stop is what is tested.
            await asyncio.sleep(LEASE + 0.5)
        seen += await rest(response)
        await _served_again(session)
        resumed = await rest(await session.get(seen[-1].id))
        assert error_of(resumed)["data"]["events"] == numbers(resumed)[-1] - 1
        assert numbers(seen + resumed) == list(range(1, len(seen + resumed) + 1))


async def test_an_answer_that_is_no_stream_ends_with_the_lease_too(workers: Workers) -> None:
    async with workers.running("one", mode="json") as (one,):
        session = await RawSession.open(one.port)
        waiting = asyncio.create_task(session.call("slow", seconds=60))
        await one.wait_for_log("slow 60.0 started")
        async with stopped(one, workers):
            await asyncio.sleep(LEASE + 0.5)
        assert (await waiting).status == 503


async def test_a_worker_that_was_stopped_for_less_than_its_lease_goes_on(workers: Workers) -> None:
    async with workers.running("one", "two") as (one, _):
        session = await RawSession.open(one.port)
        response = await session.call("count", n=20, delay=0.05)
        seen = await response.take(2)
        before = workers.store.workers().keys()
        async with stopped(one, workers):
            await asyncio.sleep(LEASE / 2)
        seen += await rest(response)
        assert numbers(seen) == list(range(1, 22))
        assert "result" in seen[-1].message
        assert workers.store.workers().keys() == before


async def test_an_outage_of_the_store_longer_than_the_lease_kills_nobody(
    workers: Workers,
) -> None:
    async with workers.running("one", "two") as (one, two):
        session = await RawSession.open(one.port)
        response = await session.call("count", n=150, delay=0.05)
        seen = await response.take(3)
        before = workers.store.workers()
        with workers.store.locked():
            began = time.monotonic()
            while time.monotonic() - began < 3 * LEASE:
                seen += await response.take(5)
            # A new call is served as well, without ids.
            new = await rest(await session.call("count", n=2, delay=0))
            assert [frame.id for frame in new] == [None] * 3
        seen += await rest(response)
        assert [frame.progress for frame in seen[:-1]] == list(range(1, 151))
        assert "result" in seen[-1].message
        await until(lambda: all(workers.store.workers()[w][0] > before[w][0] + 4 for w in before))
        assert workers.store.workers().keys() == before.keys()
        assert {state for _, state in workers.store.workers().values()} == {0}
        for server in (one, two):
            assert "stood still" not in server.log
