"""G9: the store may fail, the service does not."""

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.ext.asyncio import create_async_engine

from mcp_persist_middleware import Persistence, PersistMiddleware
from mcp_persist_middleware.persistence import access_to
from tests.support.scripted import Call, Scripted, persisted, serving, until
from tests.support.session import RawSession
from tests.support.sse_client import Frame, Response


class Steps:
    """A tool that goes on when it is told to."""

    def __init__(self) -> None:
        self.step = asyncio.Semaphore(0)

    async def __call__(self, call: Call) -> None:
        await call.head()
        for value in range(1, 6):
            await self.step.acquire()
            await call.progress(value)
        await self.step.acquire()
        await call.result()

    def go(self, steps: int) -> None:
        """Let the tool do so many steps."""
        for _ in range(steps):
            self.step.release()


async def two(call: Call) -> None:
    """One event, then the answer."""
    await call.head()
    await call.progress(1)
    await call.result()


async def large(call: Call) -> None:
    """One event that needs room of its own, then the answer."""
    await call.head()
    await call.progress(1, "x" * 100_000)
    await call.result()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Another process holds the write lock."""
    with sqlite3.connect(path, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The file of the store."""
    return tmp_path / "events.db"


async def works(port: int) -> None:
    """New streams are kept: a client that drops is served from the store."""
    session = await RawSession.open(port)
    (first, _) = await (await session.call("two")).take(2)
    assert first.id is not None
    replay = await session.get(first.id)
    assert (await replay.take(1))[0].is_response


async def test_a_store_that_is_locked_for_a_moment_costs_a_moment(store: str, path: Path) -> None:
    async with persisted(Scripted(two=two), store, store_timeout=9) as (port, _):
        session = await RawSession.open(port)
        with locked(path):
            call = asyncio.create_task(session.call("two"))
            await asyncio.sleep(0.3)
        frames = await (await call).take(2)
        assert [bool(frame.id) for frame in frames] == [True, True]
        await works(port)


async def test_an_outage_that_meets_many_streams_is_a_few_lines_and_none_for_each(
    store: str, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with persisted(Scripted(two=two), store, store_timeout=0.5) as (port, persistence):
        session = await RawSession.open(port)
        with locked(path):
            responses = await asyncio.gather(*(session.call("two") for _ in range(40)))
            for response in responses:
                assert [frame.id for frame in await response.take(2)] == [None, None]
            health = await persistence.health()
            assert not health.is_ready
        said = [message for message in caplog.messages if "goes on without the log" in message]
        assert said == ["MPM-LOG-04: A stream goes on without the log: the store does not answer."]


async def test_a_stream_goes_on_live_without_ids_and_its_answer_is_logged_later(
    store: str, path: Path
) -> None:
    steps = Steps()
    async with persisted(Scripted(steps=steps, two=two), store, store_timeout=0.8) as (
        port,
        persistence,
    ):
        session = await RawSession.open(port)
        response = await session.call("steps")
        steps.go(2)
        kept = await response.take(2)
        with locked(path):
            steps.go(2)
            lost = await response.take(2)
            assert [frame.id for frame in lost] == [None, None]
        writer = (await access_to(persistence).context()).writer
        await until(lambda: not writer.is_down)
        # Never again an id on this stream, although the store is back.
        steps.go(1)
        assert [frame.id for frame in await response.take(1)] == [None]
        steps.go(1)
        (answer,) = await response.take(1)
        assert answer.is_response
        assert answer.id is None
        await works(port)
        await until(lambda: not writer.live)
        replay = await session.get(kept[-1].id)
        frames = [frame async for frame in replay.frames() if frame.data]
        assert [frame.is_response for frame in frames] == [True]
        assert frames[0].id is not None
        assert "-2-3-" in frames[0].id, "in a new epoch, under the next number"


async def test_a_client_that_comes_back_without_the_store_hears_what_follows_and_of_the_gap(
    store: str, path: Path
) -> None:
    steps = Steps()
    async with persisted(Scripted(steps=steps), store, store_timeout=0.8) as (port, persistence):
        session = await RawSession.open(port)
        response = await session.call("steps")
        steps.go(1)
        (kept,) = await response.take(1)
        writer = (await access_to(persistence).context()).writer
        (live,) = writer.live.values()
        with locked(path):
            steps.go(1)
            (lost,) = await response.take(1)
            assert (lost.progress, lost.id) == (2, None)
            response.reset()
            await until(lambda: not live.readers)
            # Nobody is there for this one: it waits in memory.
            steps.go(1)
            await until(lambda: live.last == 3)
            replay = await session.get(kept.id)
            steps.go(1)
            again = [frame async for frame in counted(replay, 2)]
            # What may have arrived is not sent twice, and is not passed over in silence.
            assert again[1].comment == "gap: 1 events were sent before, without an id"
            assert [frame.progress for frame in again if frame.data] == [3, 4]
            replay.reset()
            await until(lambda: not live.readers)
            replay = await session.get(kept.id)
            steps.go(1)
            again = [frame async for frame in counted(replay, 1)]
            assert again[1].comment == "gap: 3 events were sent before, without an id"
            assert [frame.progress for frame in again if frame.data] == [5]
            assert not any(frame.id for frame in again if frame.data)
        await until(lambda: not writer.is_down)
        steps.go(1)
        rest = [frame async for frame in replay.frames() if frame.data]
        assert [frame.is_response for frame in rest] == [True]
        await until(lambda: not writer.live)
        late = [frame async for frame in (await session.get(kept.id)).frames()]
        (answer,) = [frame for frame in late if frame.data]
        assert answer.message == rest[0].message
        assert answer.comment == "gap: 4 events before this answer were not logged"


async def counted(response: Response, messages: int) -> AsyncIterator[Frame]:
    """All frames up to the one that brings so many messages."""
    async with asyncio.timeout(10), aclosing(response.frames()) as frames:
        async for frame in frames:
            yield frame
            messages -= bool(frame.data)
            if not messages:
                return


async def test_a_client_that_had_come_back_before_the_store_failed_hears_what_follows(
    store: str, path: Path
) -> None:
    steps = Steps()
    async with persisted(Scripted(steps=steps), store, store_timeout=0.8) as (port, persistence):
        session = await RawSession.open(port)
        response = await session.call("steps")
        steps.go(1)
        (kept,) = await response.take(1)
        response.reset()
        writer = (await access_to(persistence).context()).writer
        (live,) = writer.live.values()
        await until(lambda: not live.readers)
        replay = await session.get(kept.id)
        await until(lambda: live.readers)
        with locked(path):
            steps.go(2)
            assert [frame.progress for frame in await replay.take(2)] == [2, 3]
        await until(lambda: not writer.is_down)
        steps.go(3)
        assert (await replay.take(3))[-1].is_response


async def test_new_calls_are_served_while_the_store_is_away(store: str, path: Path) -> None:
    async with persisted(Scripted(two=two), store, store_timeout=0.8) as (port, persistence):
        session = await RawSession.open(port)
        with locked(path):
            for _ in range(3):
                frames = await (await session.call("two")).take(2)
                assert [frame.is_response for frame in frames] == [False, True]
        writer = (await access_to(persistence).context()).writer
        await until(lambda: not writer.is_down)
        await works(port)


async def test_refuse_says_so_on_open_streams_and_to_new_ones(store: str, path: Path) -> None:
    steps = Steps()
    policy: dict[str, Any] = {"store_timeout": 0.8, "on_store_failure": "refuse"}
    async with persisted(Scripted(steps=steps, two=two), store, **policy) as (port, persistence):
        session = await RawSession.open(port)
        response = await session.call("steps")
        steps.go(1)
        await response.take(1)
        with locked(path):
            steps.go(1)
            frames = await response.take(2)
            assert "error" in frames[-1].message
            assert (await session.call("two")).status == 503
        writer = (await access_to(persistence).context()).writer
        await until(lambda: not writer.is_down)
        await works(port)


@pytest.mark.parametrize("how", ["deleted", "replaced"])
async def test_a_file_that_vanishes_is_a_failed_store_and_made_anew(
    store: str, path: Path, how: str
) -> None:
    async with persisted(Scripted(two=two), store, store_timeout=0.8) as (port, persistence):
        await works(port)
        if how == "deleted":
            for name in path.parent.glob("events.db*"):
                if "worker" not in name.name:
                    name.unlink()
        else:
            path.with_suffix(".new").touch()
            os.replace(path.with_suffix(".new"), path)
            for name in path.parent.glob("events.db-[sw][ha][ml]"):
                name.unlink()
        session = await RawSession.open(port)
        frames = await (await session.call("two")).take(2)
        assert frames[-1].is_response
        writer = (await access_to(persistence).context()).writer
        await until(lambda: not writer.is_down and not writer.live)
        await works(port)
        with sqlite3.connect(path) as file:
            assert file.execute("SELECT count(*) FROM mcp_event").fetchone()[0] > 0


@pytest.mark.parametrize("trouble", ["full disk", "read-only"])
async def test_a_store_that_takes_no_more_is_survived(
    tmp_path: Path, path: Path, trouble: str
) -> None:
    engine = create_async_engine(f"sqlite+aiosqlite:///{path}", connect_args={"timeout": 0.2})
    connections: list[Any] = []

    @event.listens_for(engine.sync_engine, "connect")
    def remember(connection: Any, _: Any) -> None:
        connections.append(connection)

    async def pragma(text: str) -> None:
        for connection in connections:
            raw = connection.driver_connection
            if raw._running:
                # An open statement would keep the connection's snapshot, and lock out its writes.
                await raw.execute_fetchall(text)

    persistence = Persistence(engine=engine, store_timeout=0.8)
    app = Scripted(two=two, large=large)
    async with serving(PersistMiddleware(app, persistence=persistence)) as port:
        await works(port)
        broken, mended = {
            "full disk": ("PRAGMA max_page_count = 1", "PRAGMA max_page_count = 1073741823"),
            "read-only": ("PRAGMA query_only = 1", "PRAGMA query_only = 0"),
        }[trouble]

        @event.listens_for(engine.sync_engine, "connect")
        def still(connection: Any, _: Any) -> None:
            if broken_now:
                cursor = connection.cursor()
                cursor.execute(broken)
                cursor.close()

        broken_now = True
        await pragma(broken)
        session = await RawSession.open(port)
        frames = await (await session.call("large")).take(2)
        assert [(frame.id, frame.is_response) for frame in frames] == [(None, False), (None, True)]
        broken_now = False
        await pragma(mended)
        writer = (await access_to(persistence).context()).writer
        await until(lambda: not writer.is_down)
        await works(port)
    await engine.dispose()


async def test_one_streams_poison_is_no_other_streams_trouble(store: str) -> None:
    async def poisoned(call: Call) -> None:
        await call.head()
        (await access_to(persistence).context()).writer.live.popitem()
        await call.progress(1)
        await call.result()

    async with persisted(Scripted(poisoned=poisoned, two=two), store) as (port, persistence):
        session = await RawSession.open(port)
        frames = await (await session.call("poisoned")).take(2)
        assert frames[-1].is_response
        await works(port)


async def test_a_server_that_ends_without_its_store_stops_asking_for_it(path: Path) -> None:
    app, mine = Scripted(two=two), "mcp-persist-probe"
    async with persisted(app, str(path), store_timeout=0.3) as (port, persistence):
        session = await RawSession.open(port)
        writer = (await access_to(persistence).context()).writer
        with locked(path):
            # It has ended when the store is given up: its answer is owed at once.
            (first, _) = await (await session.call("two")).take(2)
            assert first.id is None
            await until(lambda: writer.is_down)
            probes = [task for task in asyncio.all_tasks() if task.get_name() == mine]
            assert len(probes) == 1
            await persistence.aclose()
            assert all(task.done() for task in probes)
