"""A session's own stream is one, wherever its clients and its home are."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.multiworker.listening_app import listener
from tests.multiworker.test_relay import on
from tests.support.processes import ServerProcess, running
from tests.support.scripted import Call, Scripted, persisted, until
from tests.support.session import RawSession
from tests.support.sse_client import Frame, Response
from tests.support.stores import WITH_AND_WITHOUT_REDIS, Store

pytestmark = pytest.mark.timeout(90)


@asynccontextmanager
async def subscribers(
    directory: Path, store: Store, count: int = 2
) -> AsyncIterator[list[ServerProcess]]:
    """Workers on one store; they have nothing to complain of."""
    made = [listener(directory, f"worker{n}", store) for n in range(count)]
    async with AsyncExitStack() as stack:
        for each in made:
            await stack.enter_async_context(running(each))
        yield made
        assert not any(each.complaints for each in made)


async def say(session: RawSession, *texts: str | None) -> None:
    """Let the server say this on the session's stream."""
    response = await session.post("tools/call", {"name": "say", "arguments": {"texts": texts}})
    assert response.status == 200
    await response.body()


def said(frames: list[Frame]) -> list[Any]:
    """What the server said, and the methods of what it asked."""
    messages = [frame.message for frame in frames if frame.data]
    return [m["params"]["data"] if "params" in m else m["method"] for m in messages]


class Client:
    """A client as they are: it reads, and comes back with its cursor whenever its stream ends."""

    def __init__(self, session: RawSession, server: ServerProcess) -> None:
        self.session = RawSession(server.port, session_id=session.session_id)
        self.heard: list[Any] = []
        self.connections = 0
        self.cursor: str | None = None
        self.response: Response | None = None

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self.response = await self.session.get(self.cursor)
            self.connections += 1
            async for frame in self.response.frames():
                self.cursor = frame.id or self.cursor
                self.heard += said([frame])
            await asyncio.sleep(0.05)

    @asynccontextmanager
    async def stream_state(self) -> AsyncIterator["Client"]:
        """It runs meanwhile, and is connected."""
        task = asyncio.create_task(self.run())
        try:
            await until(lambda: self.connections)
            yield self
        finally:
            task.cancel()
            await asyncio.wait({task})
            if self.response is not None:
                self.response.reset()


async def holds(store: Store, sql: str, number: int) -> None:
    """Wait until the store says so."""
    async with asyncio.timeout(10):
        while await store.rows(sql) != [(number,)]:
            await asyncio.sleep(0.02)


async def noted(store: Store, number: int) -> None:
    """Wait until the store knows that a client has read so far."""
    await holds(store, "SELECT read_sequence FROM mcp_session", number)


async def holder(store: Store, session: RawSession) -> str:
    """The worker of the client that receives; nobody's when there is none."""
    sql = "SELECT turn_worker FROM mcp_session WHERE id = :id"
    ((worker,),) = await store.rows(sql, id=session.session_id)
    return str(worker)


async def left(store: Store, session: RawSession, worker: str) -> None:
    """Wait until the worker knows that its client has left: what it writes to the connection of one
    that vanished an instant ago counts as read."""
    async with asyncio.timeout(10):
        while await holder(store, session) == worker:
            await asyncio.sleep(0.02)


@WITH_AND_WITHOUT_REDIS
async def test_the_newest_of_two_clients_on_two_workers_receives_and_nobody_fights(
    tmp_path: Path,
    store: Store,
) -> None:
    async with subscribers(tmp_path, store) as (one, two):
        for first, second in ((one, two), (two, one)):
            session = await RawSession.open(one.port)
            async with Client(session, first).stream_state() as old:
                await say(session, "a")
                await until(lambda: old.heard == ["a"])
                async with Client(session, second).stream_state() as new:
                    for text in "bcdef":
                        await say(session, text)
                        await asyncio.sleep(0.1)
                    await until(lambda: new.heard[-1:] == ["f"])
                    assert [text for text in new.heard if text != "a"] == list("bcdef")
                    assert old.heard == ["a"]
                    its_worker = await holder(store, session)
                await left(store, session, its_worker)
                # It has left: the one that waited goes on behind what the other has read.
                await say(session, "g")
                await until(lambda: old.heard[-1:] == ["g"])
                assert old.heard == ["a", "g"]
                assert (old.connections, new.connections) == (1, 1)


async def test_a_client_that_waits_goes_on_when_the_worker_of_the_other_is_killed(
    tmp_path: Path,
    store: Store,
) -> None:
    async with subscribers(tmp_path, store, 3) as (one, two, three):
        session = await RawSession.open(one.port)
        async with Client(session, two).stream_state() as old:
            reader = await on(session, three).get()
            await say(on(session, one), "a")
            assert said(await reader.take(1)) == ["a"]
            await noted(store, 1)
            await three.kill()
            await say(session, "b")
            await until(lambda: old.heard == ["b"], 15)
            assert old.connections == 1


@WITH_AND_WITHOUT_REDIS
async def test_a_client_without_a_cursor_goes_on_where_the_last_one_was(
    tmp_path: Path, store: Store
) -> None:
    async with subscribers(tmp_path, store, 3) as (one, two, three):
        session = await RawSession.open(one.port)
        reader = await on(session, two).get()
        await say(session, "a", "b")
        assert said(await reader.take(2)) == ["a", "b"]
        await noted(store, 2)
        its_worker = await holder(store, session)
        reader.reset()
        await left(store, session, its_worker)
        await say(session, "c", None, "d")
        reader = await on(session, three).get()
        await say(session, None)
        # What the server asked long ago is not put to it; what it asks now is.
        assert said(await reader.take(3)) == ["c", "d", "elicitation/create"]


async def test_a_killed_home_loses_nothing_whatever_its_clients_had_read(
    tmp_path: Path, store: Store
) -> None:
    async with subscribers(tmp_path, store) as (one, two):
        read, killed = asyncio.Barrier(3), asyncio.Event()

        async def kill() -> None:
            await read.wait()
            await one.kill()
            killed.set()

        async def between_two_notifications() -> None:
            session = await RawSession.open(one.port)
            reader = await on(session, one).get()
            await say(session, "a")
            (frame,) = await reader.take(1)
            await read.wait()
            await killed.wait()
            # The session is brought back by something else, and speaks before its client is back.
            await say(on(session, two), "b", "c")
            for _ in range(2):
                again = await session.get(frame.id)
                assert said(await again.take(2)) == ["b", "c"]
                again.reset()
            async with Client(session, two).stream_state() as client:
                client.cursor = frame.id
                await say(session, "d")
                await until(lambda: client.heard == ["d"])

        async def in_the_middle_of_an_old_epoch() -> None:
            session = await RawSession.open(one.port)
            reader = await session.get()
            await say(session, "a", "b", "c")
            seen = await reader.take(3)
            await read.wait()
            await killed.wait()
            await say(on(session, two), "d")
            client = Client(session, two)
            client.cursor = seen[0].id
            async with client.stream_state():
                await until(lambda: client.heard == ["b", "c", "d"], 15)
                await say(session, "e")
                await until(lambda: client.heard == ["b", "c", "d", "e"])
                assert client.connections == 1, "it is one stream"

        async with asyncio.TaskGroup() as group:
            for each in (kill, between_two_notifications, in_the_middle_of_an_old_epoch):
                group.create_task(each())


async def test_a_client_that_was_away_misses_nothing_of_two_generations(
    tmp_path: Path, store: Store
) -> None:
    async with subscribers(tmp_path, store) as (one, two):
        session = await RawSession.open(one.port)
        reader = await session.get()
        await say(session, "a")
        assert said(await reader.take(1)) == ["a"]
        await noted(store, 1)
        its_worker = await holder(store, session)
        reader.reset()
        await left(store, session, its_worker)
        await say(session, "b", None)
        await holds(store, "SELECT count(*) FROM mcp_event", 3)
        await one.kill()
        await say(on(session, two), "c")
        await one.start()
        async with Client(session, one).stream_state() as client:
            await until(lambda: client.heard == ["b", "c"], 15)
            await say(session, "d")
            await until(lambda: client.heard == ["b", "c", "d"])
        request_ids = "SELECT count(DISTINCT stream), count(DISTINCT epoch) FROM mcp_event"
        assert await store.rows(request_ids) == [(1, 2)]


async def test_a_connection_through_another_worker_begins_in_the_epoch_that_the_stream_is_in(
    tmp_store: str,
) -> None:
    """Or what its first cursor says would be taken for what an older epoch has lost."""
    say = asyncio.Queue[int]()

    async def stream(call: Call) -> None:
        await call.head()
        while (value := await say.get()) >= 0:
            await call.progress(value)
        await call.end()

    async def heard(connection: Response, *values: int) -> list[Frame]:
        for value in (*values, -1):
            say.put_nowait(value)
        return [frame async for frame in connection.frames() if frame.id]

    async with (
        persisted(Scripted(GET=stream), tmp_store) as (one, _),
        persisted(Scripted(), tmp_store, retry_ms=1001) as (two, _),
    ):
        session = await RawSession.open(one)
        for value in (1, 2):
            await heard(await session.get(), value)
        there = await RawSession(two, session_id=session.session_id).get()
        primed = await anext(there.frames())
        assert not primed.data
        there.reset()
        frames = await heard(await session.get(primed.id), 3)
        assert [frame.progress for frame in frames if frame.data] == [3]


async def test_whoever_listens_where_a_session_was_comes_to_where_it_is_and_misses_nothing(
    tmp_store: str,
) -> None:
    """Two workers on one event loop, each of which may take the session over while both live."""
    streams: list[Call] = []

    async def stream(call: Call) -> None:
        streams.append(call)
        await call.head()
        await call.watch()

    async def quick(call: Call) -> None:
        await call.json(200, {"jsonrpc": "2.0", "id": call.request["id"], "result": {}})

    routing: dict[str, Any] = {"session_routing": "revive"}
    async with (
        persisted(Scripted(GET=stream, quick=quick), tmp_store, **routing) as (one, _),
        persisted(Scripted(GET=stream, quick=quick), tmp_store, retry_ms=1001, **routing) as (
            two,
            _,
        ),
    ):
        session = await RawSession.open(one)
        reader = await session.get()
        await until(lambda: streams)
        there = RawSession(two, session_id=session.session_id)
        assert (await there.call("quick")).status == 200
        await until(lambda: len(streams) == 2)
        await streams[1].progress(1)
        # Where it was it has nothing more to say, and the application hears that.
        await streams[0].progress(7)
        assert [frame async for frame in reader.frames() if frame.data] == []
        await until(streams[0].gone.is_set)
        back = await session.get()
        await until(lambda: len(streams) == 3)
        await streams[2].progress(2)
        assert [frame.progress for frame in await back.take(2)] == [1, 2]
