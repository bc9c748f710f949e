"""Two clients that come back to one session's GET stream for ever do not chase each other."""

import asyncio
from itertools import pairwise

import pytest

from mcp_persist_middleware.persistence import access_to
from mcp_persist_middleware.streams.deliver import Delivery
from mcp_persist_middleware.streams.subscribers import Subscriber
from tests.support.scripted import Call, Scripted, persisted, until
from tests.support.session import RawSession, last_id
from tests.support.sse_client import Frame, Response

_ROTATE, _EVENTS, _PACE = 0.5, 120, 0.02


async def test_two_clients_of_one_session_stream_cause_no_storm_and_lose_nothing(
    tmp_store: str,
) -> None:
    begin = asyncio.Event()

    async def session_stream(call: Call) -> None:
        await call.head()
        await begin.wait()
        for value in range(1, _EVENTS + 1):
            await call.progress(value)
            await asyncio.sleep(_PACE)
        await call.gone.wait()

    connections = 0

    async def client(session: RawSession, seen: list[int]) -> None:
        """As every client does: a connection that ends is opened again, with the cursor."""
        nonlocal connections
        cursor: str | None = None
        while True:
            connections += 1
            response = await session.get(cursor)
            assert response.status == 200
            frames: list[Frame] = []
            try:
                async for frame in response.frames():
                    frames.append(frame)
                    seen += [frame.progress] if frame.progress is not None else []
            finally:
                response.reset()
            cursor = last_id(frames, cursor)
            retry = next((f.retry for f in reversed(frames) if f.retry is not None), 1000)
            await asyncio.sleep(retry / 1000)

    app = Scripted(GET=session_stream)
    async with persisted(app, tmp_store, resume_rotate=_ROTATE) as (port, _):
        session = await RawSession.open(port)
        both: list[list[int]] = [[], []]
        clients = [asyncio.create_task(client(session, seen)) for seen in both]
        begin.set()
        async with asyncio.timeout(20):
            while _EVENTS not in both[0] + both[1]:
                assert not any(task.done() for task in clients)
                await asyncio.sleep(0.05)
        for task in clients:
            task.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
    assert sorted(set(both[0] + both[1])) == list(range(1, _EVENTS + 1))
    for seen in both:
        assert all(one < two for one, two in pairwise(seen)), "in order, none twice"
    # One connection in a rotation each, where a fight would make hundreds.
    assert connections <= 2 * (_EVENTS * _PACE / _ROTATE + 2)


@pytest.mark.parametrize("together", [False, True])
async def test_of_very_many_connections_to_one_session_the_oldest_are_ended(
    tmp_store: str, *, together: bool
) -> None:
    async def quiet(call: Call) -> None:
        await call.head()
        await call.watch()

    async with persisted(Scripted(GET=quiet), tmp_store) as (port, _):
        session = await RawSession.open(port)
        responses = [await session.get()]
        if together:
            responses += await asyncio.gather(*(session.get() for _ in range(39)))
        else:
            responses += [await session.get() for _ in range(39)]
        assert all(each.status == 200 for each in responses)
        count = 0

        async def ended(response: Response) -> None:
            nonlocal count
            async for _ in response.frames():
                pass
            count += 1

        reading = [asyncio.create_task(ended(each)) for each in responses]
        await until(lambda: count == 24, 10)
        for each in responses:
            each.reset()
        await asyncio.wait(reading)
        assert sum(task.exception() is None for task in reading) == 24


async def test_a_connection_that_waits_for_the_stream_to_open_is_gone_with_its_client(
    tmp_store: str,
) -> None:
    """The application takes its time with the head; nobody is held for as long."""

    async def slow(call: Call) -> None:
        await opens.wait()
        await call.head()
        await call.watch()

    opens = asyncio.Event()
    async with persisted(app := Scripted(GET=slow), tmp_store) as (port, opened):
        session = await RawSession.open(port)
        first = asyncio.create_task(session.get())
        await until(lambda: app.calls)
        key = next(iter((await access_to(opened).parts()).sessions._held._all))
        turns = (await access_to(opened).context()).subscribers.of(key)
        lines = [f"{name}: {text}" for name, text in session.headers().items()]
        head = "GET /mcp HTTP/1.1\r\nhost: here\r\n" + "\r\n".join(lines) + "\r\n\r\n"
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head.encode())
        await until(lambda: turns.opening._waiters)
        writer.transport.abort()
        await until(lambda: not turns.opening._waiters, 5)
        opens.set()
        (await first).reset()


async def test_a_connection_that_waits_for_its_turn_ends_when_it_is_told_to(
    tmp_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting, regain, looks = asyncio.Event(), Subscriber.regain, 0

    async def noticed(turn: Subscriber) -> bool:
        nonlocal looks
        looks += 1
        asyncio.get_running_loop().call_soon(waiting.set)  # once it waits
        return await regain(turn)

    monkeypatch.setattr(Subscriber, "regain", noticed)

    async def one_event(call: Call) -> None:
        await call.head()
        await both.wait()
        await call.progress(1)
        await call.gone.wait()

    both = asyncio.Event()
    async with persisted(Scripted(GET=one_event), tmp_store) as (port, opened):
        session = await RawSession.open(port)
        older, newer = await session.get(), await session.get()
        both.set()
        assert (await newer.take(1))[0].progress == 1
        await asyncio.wait_for(waiting.wait(), 10)
        (waits,) = [
            reader
            for reader in (await access_to(opened).context()).drain.readers
            if isinstance(reader, Delivery) and reader.subscriber is not None
            if not reader.subscriber._is_newest
        ]
        before = looks
        waits.stop()
        async with asyncio.timeout(5):
            assert [frame async for frame in older.frames() if frame.data] == []
        assert looks == before, "it does not go on waiting"
        newer.reset()
