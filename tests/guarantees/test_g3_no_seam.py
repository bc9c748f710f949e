"""G3: each resume delivers exactly the events after its cursor, each once, in order."""

import asyncio
import random
from typing import Any

import pytest

from mcp_persist_middleware.persistence import access_to
from tests.support.scripted import Call, Scripted, persisted, until
from tests.support.session import HANDSHAKE, MODERN, RawSession, last_id

EVENTS = 400


async def count(call: Call) -> None:
    """Send events in bursts, with pauses in which readers catch up."""
    chance = random.Random(7)
    await call.head()
    for value in range(1, EVENTS + 1):
        await call.progress(value)
        if chance.random() < 0.2:
            await asyncio.sleep(chance.random() * 0.004)
    await call.result()


async def read_through_cuts(session: RawSession, every: int) -> list[int | None]:
    """All that a client sees that resets its connection after every so many events."""
    seen: list[int | None] = []
    response, cursor = await session.call("count"), None
    while True:
        frames = []
        async for frame in response.frames():
            frames.append(frame)
            if frame.data:
                seen.append(frame.progress)
            if frame.is_response or sum(bool(f.data) for f in frames) == every:
                break
        response.reset()
        if frames[-1].is_response:
            return seen
        cursor = last_id(frames, cursor)
        response = await session.get(cursor)
        assert response.status == 200


@pytest.mark.parametrize("version", [HANDSHAKE, MODERN])
@pytest.mark.parametrize("every", [25, 12, 3])
async def test_every_event_comes_once_however_often_the_client_drops(
    store: str, version: str, every: int
) -> None:
    async with persisted(Scripted(count=count), store) as (port, _):
        sessions = [await RawSession.open(port, version) for _ in range(3)]
        async with asyncio.timeout(60):
            seen = await asyncio.gather(*(read_through_cuts(s, every) for s in sessions))
    for one in seen:
        assert one == [*range(1, EVENTS + 1), None]


async def test_what_a_client_read_in_the_store_before_its_writer_heard_of_it_comes_once(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, heard, is_kept = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def steps(call: Call) -> None:
        await call.head()
        for value in (1, 2):
            await call.progress(value)
        await go_on.wait()
        await call.progress(3)
        await heard.wait()
        await call.progress(4)
        await call.result()

    async with persisted(Scripted(steps=steps), store) as (port, persistence):
        session = await RawSession.open(port)
        response = await session.call("steps")
        first, _ = await response.take(2)
        response.reset()
        context = await access_to(persistence).context()
        (live,) = context.writer.live.values()
        await until(lambda: not live.readers)
        append = context.log.append

        async def unheard(batch: Any) -> Any:
            outcomes = await append(batch)
            is_kept.set()
            await heard.wait()
            return outcomes

        monkeypatch.setattr(context.log, "append", unheard)
        go_on.set()
        await is_kept.wait()
        # Nobody was here for the second one, so it is read in the store, where the third is too.
        early = await session.get(first.id)
        frames = await early.take(2)
        assert [frame.progress for frame in frames] == [2, 3]
        early.reset()
        back = await session.get(frames[-1].id)
        heard.set()
        assert [frame.progress for frame in await back.take(2)] == [4, None]


async def test_a_call_that_ended_while_its_client_was_away_is_replayed_and_closes(
    store: str,
) -> None:
    async with persisted(Scripted(count=count), store) as (port, persistence):
        session = await RawSession.open(port)
        response = await session.call("count")
        first = await response.take(1)
        response.reset()
        log = (await access_to(persistence).context()).log
        stream = (await access_to(persistence).context()).writer.live
        async with asyncio.timeout(20):
            while stream:
                await asyncio.sleep(0.01)
        replay = await session.get(first[0].id)
        frames = [frame async for frame in replay.frames() if frame.data]
        assert [frame.progress for frame in frames] == [*range(2, EVENTS + 1), None]
        again = await session.get(frames[-1].id)
        assert again.status == 204
        await log.ping()


async def test_the_readers_of_one_stream_each_get_all_of_it(store: str) -> None:
    async with persisted(Scripted(count=count), store) as (port, _):
        session = await RawSession.open(port)
        response = await session.call("count")
        first = await response.take(1)
        others = [await session.get(first[0].id) for _ in range(3)]
        taken = await asyncio.gather(*(r.take(EVENTS) for r in [response, *others]))
    for frames in taken:
        assert [frame.progress for frame in frames] == [*range(2, EVENTS + 1), None]


async def test_a_wake_up_that_is_lost_costs_time_and_no_event(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mcp_persist_middleware.log import cursor
    from mcp_persist_middleware.wakeups.local import Signal

    monkeypatch.setattr(cursor, "_LOCAL_POLL", 0.05)
    async with persisted(Scripted(count=count), store, run_ahead_events=10_000) as (port, _):
        # The store is open: whoever waits for that looks only now and then.
        monkeypatch.setattr(Signal, "notify", lambda _: None)
        session = await RawSession.open(port)
        response = await session.call("count")
        frames = await response.take(EVENTS + 1, timeout=30)
    assert [frame.progress for frame in frames] == [*range(1, EVENTS + 1), None]
