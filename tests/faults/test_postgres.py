"""PostgreSQL fails under load, in every way that it can: what a client has seen is in the store,
once, and the service goes on by itself."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from mcp_persist_middleware import Persistence
from mcp_persist_middleware.persistence import access_to
from mcp_persist_middleware.stores.postgres import engine
from tests.support.scripted import Call, Scripted, persisted, until
from tests.support.session import RawSession, last_id
from tests.support.sse_client import Frame
from tests.support.stores import PostgresServer, new_database, place_for_postgres
from tests.support.wire import Wire

pytestmark = pytest.mark.timeout(90)

EVENTS, CLIENTS = 90, 6
_BROKEN = (OSError, asyncio.IncompleteReadError)


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """A server that may be hurt."""
    with place_for_postgres() as directory:
        made = PostgresServer(directory / "data", {"max_connections": "30"})
        made.start()
        yield made
        with contextlib.suppress(Exception):
            made.stop("immediate")


@pytest.fixture
def url(server: PostgresServer) -> str:
    """A database of this test's own."""
    return new_database(server.url())


async def count(call: Call) -> None:
    """Progress at an even pace, then the answer."""
    await call.head()
    for value in range(1, EVENTS + 1):
        await call.progress(value)
        await asyncio.sleep(0.01)
    await call.result()


async def administer(url: str, *commands: str) -> None:
    """What an administrator says to the server."""
    connection = await asyncpg.connect(url.replace("+asyncpg", ""))
    try:
        for command in commands:
            await connection.execute(command)
    finally:
        await connection.close()


async def follow(port: int) -> tuple[RawSession, list[Frame]]:
    """One call, read down to its answer however often that takes."""
    session = await RawSession.open(port)
    seen: list[Frame] = []
    response = await session.call("count")
    while True:
        with contextlib.suppress(*_BROKEN):
            async for frame in response.frames():
                seen += [frame] if frame.data else []
                if frame.is_response:
                    return session, seen
        response.reset()
        response = await session.get(last_id(seen))
        assert response.status == 200


async def check(session: RawSession, seen: list[Frame]) -> None:
    """All of it came, in order and once; and what had an id comes again."""
    assert [frame.progress for frame in seen] == [*range(1, EVENTS + 1), None]
    assert "result" in seen[-1].message
    if not (kept := [frame for frame in seen if frame.id]):
        return
    again: list[Frame] = []
    async with asyncio.timeout(20):
        while len(again) < len(kept) - 1:
            # A store that is slow once more ends the connection: its client comes back.
            replay = await session.get(last_id(again, kept[0].id))
            again += await replay.take(len(kept) - 1 - len(again))
            replay.reset()
    assert [frame.data for frame in again] == [frame.data for frame in kept[1:]]


def waiting(persistence: Persistence) -> int:
    """How many events wait for the store."""
    from mcp_persist_middleware.runtime import _runtimes

    runtimes = _runtimes().values()
    writers = [each.parts.exchanges.writer for each in runtimes if each.parts is not None]
    return sum(len(live._waiting) for writer in writers for live in writer.live.values())


@asynccontextmanager
async def load(url: str, **settings: Any) -> AsyncIterator[tuple[int, list[Any]]]:
    """Clients that call and read; when the block ends, so do they, and each has seen everything."""
    given = {"store_timeout": 9.0, "lease_seconds": 30.0} | settings
    async with persisted(Scripted(count=count), url, **given) as (port, persistence):
        most = 0

        async def watch() -> None:
            nonlocal most
            while True:
                most = max(most, waiting(persistence))
                await asyncio.sleep(0.01)

        watching = asyncio.create_task(watch())
        calls = [asyncio.create_task(follow(port)) for _ in range(CLIENTS)]
        await asyncio.sleep(0.3)
        try:
            yield port, calls
            async with asyncio.timeout(45):
                results = await asyncio.gather(*calls)
        finally:
            for task in (*calls, watching):
                task.cancel()
        writer = (await access_to(persistence).context()).writer
        await until(lambda: not writer.is_down and not writer.live, 20)
        for session, seen in results:
            await check(session, seen)
        assert most <= (CLIENTS + 1) * 257, "what waits for the store is bounded"
        session, seen = await follow(port)
        assert all(frame.id for frame in seen), "the next call is kept"


def all_have_ids(calls: list[Any]) -> None:
    """No stream went on without the store."""
    for call in calls:
        _, seen = call.result()
        assert all(frame.id for frame in seen)


async def in_thread(call: Callable[..., None], *arguments: str) -> None:
    """Run what takes its time beside the event loop, and leave no thread behind."""
    with ThreadPoolExecutor(1) as threads:
        await asyncio.get_running_loop().run_in_executor(threads, call, *arguments)


async def restart(server: PostgresServer) -> None:
    await in_thread(server.stop, "fast")
    await asyncio.sleep(0.5)
    await in_thread(server.start)


async def kill(server: PostgresServer) -> None:
    await in_thread(server.kill)
    await asyncio.sleep(0.5)
    await in_thread(server.start)


async def freeze(server: PostgresServer) -> None:
    await _stopped([server.pid, *_children(server.pid)], 5)


async def freeze_backends(server: PostgresServer) -> None:
    backends = [each for each in _children(server.pid) if b"127.0.0.1" in _title(each)]
    assert backends
    await _stopped(backends, 4)


async def _stopped(processes: list[int], seconds: float) -> None:
    for process in processes:
        os.kill(process, signal.SIGSTOP)
    await asyncio.sleep(seconds)
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGCONT)


def _children(process: int) -> list[int]:
    return [
        int(each) for each in Path(f"/proc/{process}/task/{process}/children").read_text().split()
    ]


def _title(process: int) -> bytes:
    return Path(f"/proc/{process}/cmdline").read_bytes()


async def terminate(server: PostgresServer) -> None:
    await administer(
        server.url(),
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname LIKE 't%'",
    )


@pytest.mark.parametrize("fault", [restart, kill, freeze, freeze_backends, terminate])
async def test_a_server_that_is_back_in_time_costs_time_and_nothing_else(
    server: PostgresServer, url: str, fault: Any
) -> None:
    async with load(url) as (_, calls):
        await fault(server)
    all_have_ids(calls)


@pytest.mark.parametrize("how", ["held", "cut"])
async def test_a_wire_that_fails_for_a_while_costs_time_and_nothing_else(
    server: PostgresServer, url: str, how: str
) -> None:
    async with Wire(server.port) as wire:
        through = url.replace(str(server.port), str(wire.port))
        async with load(through) as (_, calls):
            wire.hold()
            await asyncio.sleep(2)
            if how == "cut":
                wire.cut()
            wire.release()
        all_have_ids(calls)


async def test_a_connection_to_a_server_that_does_not_answer_is_closed_without_a_word(
    server: PostgresServer,
) -> None:
    """Its farewell waits for a cancellation that nobody hears; whoever said it may be gone."""
    async with Wire(server.port) as wire:
        plain = server.url(port=wire.port).replace("+asyncpg", "")
        connection = await asyncpg.connect(plain, connection_class=engine._Connection)
        wire.hold()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(connection.execute("SELECT pg_sleep(30)"), 0.2)
        async with asyncio.timeout(5):
            await connection.close()
        assert connection.is_closed()


async def test_an_answer_that_is_lost_on_the_way_back_does_not_double_what_it_was_about(
    server: PostgresServer, url: str
) -> None:
    async with Wire(server.port) as wire:
        through = url.replace(str(server.port), str(wire.port))
        async with load(through) as (_, calls):
            while not all(call.done() for call in calls):
                await asyncio.sleep(0.25)
                wire.cut()
        all_have_ids(calls)


async def test_a_server_that_takes_no_writes_is_survived(server: PostgresServer, url: str) -> None:
    name = url.rpartition("/")[2]
    async with load(url, store_timeout=1.0) as (port, _):
        await administer(
            server.url(), f'ALTER DATABASE "{name}" SET default_transaction_read_only = on'
        )
        await terminate(server)
        await asyncio.sleep(1.5)
        async with asyncio.timeout(10):
            _, seen = await follow(port)
        assert not all(frame.id for frame in seen), "served live all the same"
        await administer(
            server.url(), f'ALTER DATABASE "{name}" SET default_transaction_read_only = off'
        )
        await terminate(server)


async def test_a_server_that_answers_and_has_no_room_keeps_only_the_first_one_waiting(
    server: PostgresServer, url: str
) -> None:
    """Whoever asks whether it is there hears that it is, again and again."""
    over = asyncio.Event()

    async def stay(call: Call) -> None:
        await call.head()
        await call.progress(1)
        await over.wait()
        await call.result()

    app = Scripted(stay=stay, count=count)
    async with persisted(app, url, store_timeout=2.0) as (port, held):
        writer = (await access_to(held).context()).writer
        session = await RawSession.open(port)
        no_room = "RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE disk_full; END'"
        await administer(
            url,
            f"CREATE FUNCTION no_room() {no_room}",
            "CREATE TRIGGER no_room BEFORE INSERT ON mcp_event EXECUTE FUNCTION no_room()",
        )
        waited = []
        for _ in range(4):
            began = asyncio.get_running_loop().time()
            response = await session.call("stay")
            assert [frame.id for frame in await response.take(1)] == [None]
            waited.append(asyncio.get_running_loop().time() - began)
            await until(lambda: not writer.is_down)
        assert all(seconds < 1 for seconds in waited[1:]), waited
        await administer(url, "DROP TRIGGER no_room ON mcp_event")
        over.set()
        await until(lambda: not writer.live)
        _, seen = await follow(port)
        assert all(frame.id for frame in seen), "the next call is kept"


async def test_a_server_without_a_connection_left_is_survived(
    server: PostgresServer, url: str
) -> None:
    async with load(url, store_timeout=1.0) as _:
        taken = []
        try:
            await terminate(server)
            # Whoever is quicker has the last connections, and keeps them.
            for _ in range(60):
                with contextlib.suppress(asyncpg.PostgresError, OSError):
                    plain = server.url().replace("+asyncpg", "")
                    taken.append(await asyncpg.connect(plain))
            assert taken
            await asyncio.sleep(1.5)
        finally:
            for connection in taken:
                await connection.close()


async def test_a_commit_that_was_given_up_and_came_about_keeps_no_answer_from_the_log(
    server: PostgresServer, url: str
) -> None:
    steps = asyncio.Semaphore(0)

    async def stepped(call: Call) -> None:
        await call.head()
        for value in range(1, 5):
            await steps.acquire()
            await call.progress(value)
        await call.result()

    async with Wire(server.port) as wire:
        through = url.replace(str(server.port), str(wire.port))
        async with persisted(Scripted(stepped=stepped), through, store_timeout=2.0) as (port, held):
            session = await RawSession.open(port)
            response = await session.call("stepped")
            kept = []
            for _ in range(2):
                steps.release()
                kept += await response.take(1)
            # The store hears of the third event, and nobody hears of the store.
            wire.deafen()
            steps.release()
            lost = await response.take(1)
            steps.release()
            lost += await response.take(2)
            assert [frame.id for frame in lost] == [None] * 3
            wire.cut()
            wire.release()
            writer = (await access_to(held).context()).writer
            await until(lambda: not writer.is_down and not writer.live, 20)
            replay = await session.get(kept[-1].id)
            again = await replay.take(2)
            assert [frame.progress for frame in again] == [3, None]
            assert "result" in again[-1].message
