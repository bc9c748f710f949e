"""A worker runs and writes only with its lease, and goes on under a new id when it has lost it."""

import asyncio
import gc
import json
import threading
import time
import weakref
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mcp_persist_middleware import Persistence
from mcp_persist_middleware.asgi import body
from mcp_persist_middleware.model import SessionKey, StreamState, WorkerState
from mcp_persist_middleware.persistence import access_to
from mcp_persist_middleware.sessions import held
from mcp_persist_middleware.settings import Settings
from mcp_persist_middleware.stores.connect import make_log
from mcp_persist_middleware.stores.sqlite.log import SqliteLog
from mcp_persist_middleware.streams.context import Context
from tests.faults.workers import Store
from tests.support.scripted import Call, Scripted, persisted, until
from tests.support.session import RawSession
from tests.support.stateful import Stateful

LEASE = 1.0
SETTINGS: dict[str, Any] = {"lease_seconds": LEASE, "store_timeout": 0.6}
# Where the test itself takes the lease away, a busy machine may take its time.
LONG: dict[str, Any] = {"lease_seconds": 10, "store_timeout": 5}


async def two(call: Call) -> None:
    """One event, then the answer."""
    await call.head()
    await call.progress(1)
    await call.result()


async def endless(call: Call) -> None:
    """One event, and then nothing, whatever happens."""
    await call.head()
    await call.progress(1)
    await asyncio.Event().wait()


async def silent(call: Call) -> None:
    """No answer at all."""
    del call
    await asyncio.Event().wait()


async def renewed(persistence: Persistence, lost: Context) -> Context:
    """The context of the worker that follows."""
    async with asyncio.timeout(10):
        while (context := await access_to(persistence).context()) is lost:
            await asyncio.sleep(0.01)
    return context


async def declared_dead(worker: Context) -> None:
    """Somebody takes this worker for dead."""
    # Its counter may move while it is looked at: then it lives, and is looked at again.
    async with asyncio.timeout(5):
        while not await worker.log.declare_dead(
            worker.member.name, (await worker.log.workers())[worker.member.name].counter
        ):
            await asyncio.sleep(0)


async def works(port: int) -> None:
    """A call is kept."""
    session = await RawSession.open(port)
    frames = await (await session.call("two")).take(2)
    assert [bool(frame.id) for frame in frames] == [True, True]


async def value(session: RawSession, tool: str = "count") -> Any:
    """What a tool answers, once the worker that follows has its lease."""
    async with asyncio.timeout(10):
        while (response := await session.call(tool)).status == 503:
            await asyncio.sleep(0.05)
    (answer,) = [frame async for frame in response.frames() if frame.data]
    return answer.message["result"]["value"]


@asynccontextmanager
async def half_sent(session: RawSession):
    """A call whose body has not come to its end yet; yields what sends the rest of it."""
    params = {"name": "two", "arguments": {}}
    message = {"jsonrpc": "2.0", "id": 9, "method": "tools/call", "params": params}
    body = json.dumps(message).encode()
    head = ["POST /mcp HTTP/1.1", "host: x", f"content-length: {len(body)}", "connection: close"]
    head += [f"{name}: {value}" for name, value in session.headers().items()]
    reader, writer = await asyncio.open_connection("127.0.0.1", session.port)
    writer.write("\r\n".join([*head, "", ""]).encode() + body[:20])

    async def finish() -> bytes:
        writer.write(body[20:])
        async with asyncio.timeout(10):
            return await reader.read()

    try:
        await writer.drain()
        yield finish
    finally:
        writer.close()


async def test_a_lost_lease_costs_a_moment_and_no_request_that_was_not_begun(
    tmp_store: str,
) -> None:
    app = Scripted(two=two, endless=endless, silent=silent)
    async with persisted(app, tmp_store, **LONG) as (port, persistence):
        lost = await access_to(persistence).context()
        session = await RawSession.open(port)
        response = await session.call("endless")
        (first,) = await response.take(1)
        waiting = asyncio.create_task(session.call("silent"))
        await until(lambda: len(app.calls) == 2)
        lost.member.lease.lose()
        held = await session.call("two")
        assert [bool(frame.id) for frame in await held.take(2)] == [True, True]
        refused = await waiting
        assert refused.status == 503
        assert json.loads(await refused.body())["error"]["code"] == -32000
        assert [frame async for frame in response.frames() if frame.data] == []
        fresh = await renewed(persistence, lost)
        assert fresh.member.name != lost.member.name
        assert (fresh.holds_lease, lost.holds_lease) == (True, False)
        assert not lost.tasks
        assert len(app.calls) == 3, "what was held was run, once, and what was cut off not again"
        await works(port)
        replay = await session.get(first.id)
        (answer,) = [frame async for frame in replay.frames() if frame.data]
        assert answer.message["error"]["data"]["events"] == 1


@pytest.mark.parametrize("was_declared_dead", [False, True])
async def test_a_request_that_is_read_while_the_lease_is_lost_runs_where_its_session_still_is(
    tmp_store: str, monkeypatch: pytest.MonkeyPatch, was_declared_dead: bool
) -> None:
    app, began, read = Scripted(two=two), asyncio.Event(), body.read

    async def noted(*given: Any) -> body.Body:
        began.set()
        return await read(*given)

    async with persisted(app, tmp_store, **LONG) as (port, persistence):
        session = await RawSession.open(port)
        monkeypatch.setattr(body, "read", noted)
        async with half_sent(session) as finish:
            await began.wait()
            seen = len(app.calls)
            lost = await access_to(persistence).context()
            if was_declared_dead:
                await declared_dead(lost)
            else:
                lost.member.lease.lose()
            await renewed(persistence, lost)
            status = (await finish()).split(b"\r\n")[0]
            assert (b" 503 " if was_declared_dead else b" 200 ") in status
        assert len(app.calls) == seen + (not was_declared_dead)
        await works(port)


@pytest.mark.parametrize("routing", ["relay", "revive", "local"])
async def test_a_session_goes_on_with_its_state_in_the_worker_that_follows(
    tmp_store: str, routing: str
) -> None:
    app = Stateful()
    given = LONG | {"session_routing": routing}
    async with persisted(app, tmp_store, **given) as (port, persistence):
        session = await RawSession.open(port)
        assert [await value(session) for _ in range(3)] == [1, 2, 3]
        for generation in (2, 3):
            lost = await access_to(persistence).context()
            lost.member.lease.lose()
            await renewed(persistence, lost)
            told = await value(session, "tell")
            assert (told["generation"], told["revived"]) == (generation, False)
        assert await value(session) == 6
        assert len(app.sessions) == 1, "it was not begun anew"


async def test_however_often_the_lease_is_lost_no_more_sessions_are_known_than_may(
    tmp_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held, "_MOST_HELD", 2)
    async with persisted(Stateful(), tmp_store, **LONG) as (port, persistence):
        for _ in range(3):
            sessions = [await RawSession.open(port) for _ in range(2)]
            lost = await access_to(persistence).context()
            lost.member.lease.lose()
            await renewed(persistence, lost)
            known = (await access_to(persistence).parts()).sessions._held.left
            assert {key.id for key in known} == {session.session_id for session in sessions}


async def test_a_session_that_another_worker_took_over_meanwhile_is_not_taken_back(
    tmp_store: str,
) -> None:
    app = Stateful()
    async with persisted(app, tmp_store, **LONG) as (port, persistence):
        session = await RawSession.open(port)
        assert await value(session) == 1
        lost = await access_to(persistence).context()
        key = SessionKey("default", "/mcp", session.session_id or "")
        assert await lost.log.sessions.move(key, 1, "somebody who is gone again")
        lost.member.lease.lose()
        await renewed(persistence, lost)
        told = await value(session, "tell")
        assert (told["generation"], told["revived"], len(app.sessions)) == (3, True, 2)


async def test_a_stranger_takes_no_session_back(tmp_store: str) -> None:
    app = Stateful()
    async with persisted(app, tmp_store, **LONG) as (port, persistence):
        session = await RawSession.open(port, extra={"authorization": "Bearer one"})
        assert await value(session) == 1
        lost = await access_to(persistence).context()
        lost.member.lease.lose()
        await renewed(persistence, lost)
        stranger = replace(session, extra={"authorization": "Bearer two"})
        assert (await stranger.call("count")).status == 404
        assert (await value(session, "tell"))["generation"] == 2
        assert await value(session) == 3


async def test_a_deletion_that_the_store_has_yet_to_hear_of_outlives_the_lease(
    tmp_store: str, caplog: pytest.LogCaptureFixture
) -> None:
    store, app = Store(Path(tmp_store.partition(":///")[2])), Stateful()
    async with persisted(app, tmp_store, **SETTINGS) as (port, persistence):
        session = await RawSession.open(port)
        lost = await access_to(persistence).context()
        with store.locked():
            assert await session.delete() == 503
            lost.member.lease.lose()
            await until(lambda: "Sessions not left in order" in caplog.text)
        await renewed(persistence, lost)
        assert (await session.call("count")).status == 404


async def test_nothing_is_written_without_the_lease(tmp_store: str) -> None:
    steps = asyncio.Semaphore(0)

    async def stepping(call: Call) -> None:
        await call.head()
        for value in range(1, 4):
            await steps.acquire()
            await call.progress(value)

    async with persisted(Scripted(stepping=stepping), tmp_store, **LONG) as (port, persistence):
        session = await RawSession.open(port)
        response = await session.call("stepping")
        steps.release()
        (first,) = await response.take(1)
        lost = await access_to(persistence).context()
        (stream,) = lost.writer.live.values()
        lost.member.lease.lose()
        steps.release()
        steps.release()
        fresh = await renewed(persistence, lost)
        async with asyncio.timeout(5):
            while (record := await fresh.log.find(stream.record.id)) is not None:
                if record.state is StreamState.FAILED:
                    break
                await asyncio.sleep(0.01)
        events = await fresh.log.read(stream.record.id, 0, 10, 1 << 20)
        assert [(event.sequence, event.epoch) for event in events] == [(1, 1), (2, 2)]
        assert first.id is not None


async def test_who_was_declared_dead_finds_out_and_begins_anew(tmp_store: str) -> None:
    other = make_log(Settings.load({"url": tmp_store, **SETTINGS}, {}))
    async with persisted(Scripted(two=two), tmp_store, **SETTINGS) as (port, persistence):
        lost = await access_to(persistence).context()
        await other.open("other")
        try:
            # Its counter may move while it is looked at: then it lives, and is looked at again.
            async with asyncio.timeout(5):
                while not await other.declare_dead(
                    lost.member.name, (await other.workers())[lost.member.name].counter
                ):
                    await asyncio.sleep(0)
            fresh = await renewed(persistence, lost)
            await works(port)
            async with asyncio.timeout(5):
                while (await other.workers()).keys() != {fresh.member.name, "other"}:
                    await asyncio.sleep(0.01)
        finally:
            await other.aclose()


async def test_without_a_store_there_is_no_new_lease_and_with_it_there_is(
    tmp_store: str,
) -> None:
    store = Store(Path(tmp_store.partition(":///")[2]))
    async with persisted(Scripted(two=two), tmp_store, **SETTINGS) as (port, persistence):
        lost = await access_to(persistence).context()
        session = await RawSession.open(port)
        with store.locked():
            lost.member.lease.lose()
            for _ in range(3):
                assert (await session.call("two")).status == 503
        await renewed(persistence, lost)
        await works(port)


async def test_a_blocked_event_loop_is_not_a_death(tmp_store: str) -> None:
    async with persisted(Scripted(two=two), tmp_store, **SETTINGS) as (port, persistence):
        context = await access_to(persistence).context()
        before = (await context.log.workers())[context.member.name].counter
        time.sleep(2 * LEASE)  # noqa: ASYNC251 - the blocked event loop itself
        assert context.holds_lease
        assert (await context.log.workers())[context.member.name].counter >= before + 4
        await works(port)
        assert await access_to(persistence).context() is context


async def test_a_worker_that_drains_is_seen_to(tmp_store: str) -> None:
    async with Persistence(url=tmp_store, **SETTINGS) as persistence:
        context = await access_to(persistence).context()
        context.drain.begin()
        async with asyncio.timeout(5):
            while (await context.log.workers())[
                context.member.name
            ].state is not WorkerState.DRAINING:
                await asyncio.sleep(0.01)
        verdict = await context.member.peers.verify(context.member.name)
        assert (verdict.gone, verdict.draining) == (False, True)


async def test_two_workers_on_one_store_leave_each_other_alone(tmp_store: str) -> None:
    async with Persistence(url=tmp_store, **SETTINGS) as one:
        first = await access_to(one).context()
        async with Persistence(url=tmp_store, namespace="other", **SETTINGS) as two_:
            second = await access_to(two_).context()
            before = await first.log.workers()
            assert before.keys() == {first.member.name, second.member.name}
            async with asyncio.timeout(20):
                while any(
                    beat.counter < before[worker].counter + 12
                    for worker, beat in (await first.log.workers()).items()
                ):
                    await asyncio.sleep(0.05)
            assert not (await first.member.peers.verify(second.member.name)).gone
            assert not (await second.member.peers.verify(first.member.name)).gone
        async with asyncio.timeout(5):
            while not (await first.member.peers.verify(second.member.name)).gone:
                await asyncio.sleep(0.01)


def test_what_an_event_loop_leaves_open_is_closed_with_it(tmp_store: str, tmp_path: Path) -> None:
    before, loops = set(threading.enumerate()), []

    async def leave_it() -> None:
        loops.append(weakref.ref(asyncio.get_running_loop()))
        await Persistence(url=tmp_store, **SETTINGS).start()

    for _ in range(3):
        asyncio.run(leave_it())
        for thread in set(threading.enumerate()) - before:
            thread.join(5)
            assert not thread.is_alive()
        assert {path.name for path in tmp_path.iterdir()} == {"events.db"}
    gc.collect()
    assert [loop() for loop in loops] == [None, None, None], "nothing keeps it"


async def test_a_store_that_is_opened_for_longer_than_a_lease_takes_none_away(
    tmp_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opens = SqliteLog.open

    async def slowly(log: SqliteLog, worker: str) -> None:
        await opens(log, worker)
        await asyncio.sleep(1.1 * LEASE)

    monkeypatch.setattr(SqliteLog, "open", slowly)
    async with Persistence(url=tmp_store, **SETTINGS) as persistence:
        assert (await access_to(persistence).context()).holds_lease
