"""A call runs on one worker process and is read on another, live."""

import asyncio
import time
from pathlib import Path

import pytest

from tests.multiworker.servers import two_servers
from tests.support.session import HANDSHAKE, MODERN, RawSession, last_id
from tests.support.sse_client import Frame, Response
from tests.support.stores import Store

pytestmark = pytest.mark.timeout(60)


async def read_to_the_result(session: RawSession, response: Response) -> list[Frame]:
    """Everything with data; comes back with its cursor whenever the connection ends in order."""
    seen: list[Frame] = []
    cursor: str | None = None
    while True:
        frames = []
        async for frame in response.frames():
            frames.append(frame)
            if frame.is_response:
                break
        response.reset()
        seen += [frame for frame in frames if frame.data]
        if seen and seen[-1].is_response:
            return seen
        cursor = last_id(frames, cursor)
        response = await session.get(cursor)
        assert response.status == 200


@pytest.mark.parametrize(
    ("store", "versions"),
    [("sqlite", (HANDSHAKE, MODERN)), ("postgres", (MODERN,))],
    indirect=["store"],
)
async def test_a_call_cut_on_one_worker_is_read_on_the_other_down_to_its_result(
    tmp_path: Path, store: Store, versions: tuple[str, ...]
) -> None:
    async def one_client(version: str) -> None:
        session = await RawSession.open(one.port, version)
        response = await session.call("count", n=60, delay=0.06)
        first = await response.take(3)
        response.reset()
        session.port = two.port
        resumed = await session.get(last_id(first))
        assert resumed.status == 200
        rest = await read_to_the_result(session, resumed)
        seen = [frame.progress for frame in [*first, *rest]]
        assert seen == [*range(1, 61), None]
        assert "result" in rest[-1].message

    # Shorter than the call by far: only the reader on the other worker keeps it alive.
    patience = {"disconnect_grace": 1, "detach_seconds": 1}
    async with two_servers(tmp_path, **patience, store=store) as (one, two):
        await asyncio.gather(*map(one_client, versions))
        assert one.log.count("count 60 finished") == len(versions)
        assert "cancelled" not in one.log


@pytest.mark.parametrize("store", ["sqlite"], indirect=True)
async def test_a_modern_call_is_cancelled_once_its_client_has_left_every_worker(
    tmp_path: Path,
    store: Store,
) -> None:
    async with two_servers(tmp_path, disconnect_grace=1, resume_rotate="off", store=store) as (
        one,
        two,
    ):
        session = await RawSession.open(one.port, MODERN)
        response = await session.call("count", n=5000, delay=0.02)
        first = await response.take(3)
        response.reset()
        session.port = two.port
        resumed = await session.get(last_id(first))
        read = await resumed.take(85)
        assert len(read) == 85
        assert "cancelled" not in one.log
        resumed.reset()
        left = time.monotonic()
        await one.wait_for_log("count 5000 cancelled", timeout=15)
        assert time.monotonic() - left < 10


# One for each kind of wake-up.
@pytest.mark.parametrize("store", ["sqlite", "postgres", "sqlite+redis"], indirect=True)
async def test_calls_of_many_clients_are_read_on_the_other_worker_at_once_and_milliseconds_old(
    tmp_path: Path, store: Store
) -> None:
    async with two_servers(tmp_path, resume_rotate="off", store=store) as (one, two):
        seen = await asyncio.gather(*(of_a_client(one.port, two.port, n) for n in range(20)))
        lags = await lags_of_a_call(one.port, two.port)
    for progress in seen:
        assert progress == [*range(1, 51), None]
    assert len(lags) >= 50
    # Who is not woken looks once in a second or in five.
    assert lags[len(lags) // 2] < 0.2


async def of_a_client(one: int, two: int, number: int) -> list[int | None]:
    """What a client sees that was cut on one worker and reads on the other."""
    session = await RawSession.open(one, (HANDSHAKE, MODERN)[number % 2])
    response = await session.call("count", n=50, delay=0.03)
    first = await response.take(2)
    response.reset()
    session.port = two
    rest = await read_to_the_result(session, await session.get(last_id(first)))
    return [frame.progress for frame in [*first, *rest]]


async def lags_of_a_call(one: int, two: int) -> list[float]:
    """By how much later its events arrive on the other worker, the least first."""
    session = await RawSession.open(one)
    here = await session.call("count", n=150, delay=0.01)
    first = await here.take(1)
    session.port = two
    there = await session.get(first[0].id)
    arrivals: list[dict[int, float]] = [{}, {}]

    async def note(response: Response, arrived: dict[int, float]) -> None:
        async for frame in response.frames():
            if frame.progress is not None:
                arrived[frame.progress] = time.monotonic()
            if frame.is_response:
                return

    await asyncio.gather(*map(note, (here, there), arrivals))
    return sorted(arrivals[1][n] - at for n, at in arrivals[0].items() if n in arrivals[1])
