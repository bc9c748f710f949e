"""G10: nothing grows without bound."""

import asyncio
import dataclasses
import gc
import sqlite3
from pathlib import Path

import pytest

from mcp_persist_middleware.maintenance.reaper import OrphanReaper
from mcp_persist_middleware.model import StreamKind
from mcp_persist_middleware.persistence import access_to
from mcp_persist_middleware.protocol.event_id import EventIds
from mcp_persist_middleware.streams import disconnect
from mcp_persist_middleware.testing.contract.builders import events, new, record
from tests.support.scripted import Call, Scripted, Tool, persisted, until
from tests.support.session import RawSession


def rows(path: Path, what: str) -> int:
    """A number from the file."""
    with sqlite3.connect(path) as file:
        return int(file.execute(what).fetchone()[0])


async def test_a_stream_over_its_limits_loses_its_oldest_noise_and_says_so(
    store: str, tmp_path: Path
) -> None:
    async def long(call: Call) -> None:
        await call.head()
        await call.emit({"id": "ask", "method": "sampling/createMessage", "params": {}})
        for value in range(1, 20_001):
            await call.progress(value)
        await call.result()

    async with persisted(Scripted(long=long), store, max_stream_events=500) as (port, persistence):
        session = await RawSession.open(port)
        response = await session.call("long")
        (first,) = await response.take(1)
        response.reset()
        live = (await access_to(persistence).context()).writer.live
        await until(lambda: not live, timeout=30)
        kept = rows(tmp_path / "events.db", "SELECT count(*) FROM mcp_event WHERE length(stream)")
        assert kept < 600
        asks = "SELECT count(*) FROM mcp_event WHERE instr(payload, CAST('sampling' AS BLOB))"
        assert rows(tmp_path / "events.db", asks) == 1
        replay = await session.get(first.id)
        frames = [frame async for frame in replay.frames()]
        (gap,) = [frame.comment for frame in frames if frame.comment and "gap" in frame.comment]
        values = [frame.progress for frame in frames if frame.progress]
        assert frames[-1].is_response
        assert values == list(range(values[0], 20_001))
        assert f" {values[0] - 1} events" in gap


async def test_the_bytes_of_a_stream_are_bounded_too(store: str, tmp_path: Path) -> None:
    async def long(call: Call) -> None:
        await call.head()
        for value in range(1, 401):
            await call.progress(value, "x" * 4096)
        await call.result()

    async with persisted(Scripted(long=long), store, max_stream_bytes=256 * 1024) as (port, _):
        session = await RawSession.open(port)
        frames = await (await session.call("long")).take(401)
        assert frames[-1].is_response
        size = rows(tmp_path / "events.db", "SELECT sum(length(payload)) FROM mcp_event")
        assert size < 400 * 1024


async def test_what_has_expired_is_purged_by_itself_and_the_file_shrinks(
    store: str, tmp_path: Path
) -> None:
    async def large(call: Call) -> None:
        await call.head()
        for value in range(1, 101):
            await call.progress(value, "x" * 8192)
        await call.result()

    async with persisted(Scripted(large=large), store, ttl=0.3, purge_interval=0.1) as (port, _):
        session = await RawSession.open(port)
        frames = await (await session.call("large")).take(101)
        assert frames[-1].is_response
        path = tmp_path / "events.db"
        pages = rows(path, "PRAGMA page_count")
        await until(lambda: rows(path, "SELECT count(*) FROM mcp_event") == 0, timeout=20)
        await until(lambda: rows(path, "SELECT count(*) FROM mcp_stream") == 0)
        await until(lambda: rows(path, "PRAGMA page_count") < max(pages, 200) / 2, timeout=20)
        gone = await session.get(frames[0].id)
        (error,) = await gone.take(1)
        assert "error" in error.message


async def test_streams_of_nobody_are_readable_for_minutes_only(store: str) -> None:
    async def two(call: Call) -> None:
        await call.head((b"x-stateless", b"1"))
        await call.progress(1)
        await call.result()

    settings = {"anonymous_ttl": 3, "store_timeout": 1.0}
    async with persisted(Scripted(two=two), store, **settings) as (port, _):
        session = await RawSession.open(port)
        session.session_id = None
        (first, _) = await (await session.call("two")).take(2)
        assert (await (await session.get(first.id)).take(1))[0].is_response
        await asyncio.sleep(3.1)
        (error,) = await (await session.get(first.id)).take(1)
        assert error.message["error"]["message"].startswith("The stream of this request is unknown")


@pytest.mark.parametrize("by", ["its client", "the orphan reaper"])
async def test_a_stream_of_nobody_whose_worker_died_is_readable_for_minutes_only(
    store: str, tmp_path: Path, by: str
) -> None:
    async with persisted(Scripted(), store, anonymous_ttl=60) as (port, persistence):
        context = await access_to(persistence).context()
        worker = context.member.name if by == "its client" else "gone"
        made, known = record(session="", worker=worker), record(worker=worker)
        made = dataclasses.replace(made, owner=dataclasses.replace(made.owner, principal=""))
        await context.log.append([new(made, *events(1, 2)), new(known)])
        if by == "its client":
            session = RawSession(port)
            cursor = EventIds.of(made.id, StreamKind.POST, 1).at(1, 1).decode()
            frames = await (await session.get(cursor)).take(2)
            assert "error" in frames[-1].message
        else:
            of = (context.log, context.member.peers, context.settings, "me", context.takeover)
            await OrphanReaper(*of, print)._sweep()
            found = await context.log.find(known.id)
            assert found is not None
            assert (found.expires_at or 0) - (found.ended_at or 0) == 86_400
        found = await context.log.find(made.id)
        assert found is not None
        assert (found.expires_at or 0) - (found.ended_at or 0) == 60


async def test_the_number_of_detached_exchanges_is_bounded(store: str) -> None:
    async def wait(call: Call) -> None:
        await call.head()
        await call.progress(1)
        await call.watch()

    app = Scripted(wait=wait)
    async with persisted(app, store, max_detached=3) as (port, persistence):
        session = await RawSession.open(port)
        for _ in range(5):
            response = await session.call("wait")
            await response.take(1)
            response.reset()
            count = len(app.calls)
            context = await access_to(persistence).context()
            await until(lambda n=count: len(context.detached) >= min(n, 3))
        await until(lambda: [call.gone.is_set() for call in app.calls] == [False] * 3 + [True] * 2)


@pytest.mark.parametrize("are_named", [True, False], ids=["by their names", "by their sessions"])
async def test_who_leaves_many_calls_alone_crowds_out_no_call_of_another(
    store: str, are_named: bool
) -> None:
    async def wait(call: Call) -> None:
        await call.head()
        await call.progress(1)
        await call.watch()

    app = Scripted(wait=wait)
    names = [{"authorization": f"Bearer {n}"} if are_named else {} for n in range(3)]
    async with persisted(app, store, max_detached=5) as (port, persistence):
        early, stranger, late = [await RawSession.open(port, extra=name) for name in names]
        context = await access_to(persistence).context()
        for session in [early, *[stranger] * 10, late]:
            response = await session.call("wait")
            await response.take(1)
            response.reset()
            count = len(app.calls)
            await until(lambda n=count: len(context.detached) >= min(n, 5))
        await until(lambda: sum(call.gone.is_set() for call in app.calls) == 7)
        assert not app.calls[0].gone.is_set()
        assert not app.calls[-1].gone.is_set()


async def test_who_comes_back_before_the_application_has_ended_is_not_cancelled(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disconnect, "_LAST_WORD_SECONDS", 0.5)
    go_on = asyncio.Event()

    async def stubborn(call: Call) -> None:
        await call.head()
        await call.progress(1)
        await call.watch()
        await go_on.wait()
        await call.result()

    app = Scripted(stubborn=stubborn)
    async with persisted(app, store, detach_seconds=0.1) as (port, _):
        session = await RawSession.open(port)
        response = await session.call("stubborn")
        (first,) = await response.take(1)
        response.reset()
        await until(app.calls[0].gone.is_set)
        replay = await session.get(first.id)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await replay.take(1)
        go_on.set()
        replay = await session.get(first.id)
        assert "result" in (await replay.take(1))[0].message


async def test_a_finished_stream_leaves_nothing_in_the_process(store: str) -> None:
    async def two(call: Call) -> None:
        await call.head()
        await call.progress(1)
        await call.result()

    async with persisted(Scripted(two=two), store) as (port, persistence):
        session = await RawSession.open(port)
        for _ in range(20):
            await (await session.call("two")).take(2)
        context = await access_to(persistence).context()
        await until(lambda: not (context.writer.live or context.tasks or context.detached))


async def quick(call: Call) -> None:
    """Leaves nothing behind."""
    await call.head()
    await call.result()


async def careless(call: Call) -> None:
    """Leaves a circle behind, as the tasks of sse-starlette do: one that was told to stop waiting
    for the client to leave keeps the error that said so."""

    async def watch() -> None:
        circle: list[object] = [call]
        try:
            await call.watch()
        except asyncio.CancelledError as error:
            circle.extend((circle, error))

    watching = asyncio.create_task(watch())
    await call.head()
    await asyncio.sleep(0)
    watching.cancel()
    await watching
    await call.result()


@pytest.mark.parametrize(("tool", "ends"), [(quick, set()), (careless, {"LentRequest"})])
async def test_a_call_that_is_over_is_freed_without_the_garbage_collector(
    store: str, tool: Tool, ends: set[str]
) -> None:
    app = Scripted(short=tool)
    async with persisted(app, store) as (port, persistence):
        session = await RawSession.open(port)
        live = (await access_to(persistence).context()).writer.live
        await until(lambda: not live)
        gc.collect()
        gc.disable()
        try:
            for _ in range(5):
                assert (await (await session.call("short")).take(1))[0].is_response
            await until(lambda: not live)
            app.calls.clear()
            gc.set_debug(gc.DEBUG_SAVEALL)
            gc.collect()
            left = {type(each).__name__ for each in gc.garbage if _is_ours(each)}
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()
        assert left == ends


def _is_ours(each: object) -> bool:
    return type(each).__module__.startswith("mcp_persist_middleware")
