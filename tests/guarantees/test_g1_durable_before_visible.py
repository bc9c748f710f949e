"""G1: no event that others follow reaches a client before the store has committed it."""

import asyncio
import random
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from mcp_persist_middleware import worker
from mcp_persist_middleware.errors import StoreError
from mcp_persist_middleware.log import commits
from mcp_persist_middleware.log.membership.lease import Lease
from mcp_persist_middleware.model import Ending, Event, EventKind, Outcome, StreamState, StreamWrite
from mcp_persist_middleware.persistence import access_to
from mcp_persist_middleware.protocol import event_id, sse
from mcp_persist_middleware.stores.sqlite.log import SqliteLog
from tests.interaction.test_rerun import left_behind
from tests.support.processes import mcp_server
from tests.support.scripted import Call, Scripted, persisted, until
from tests.support.session import MODERN, RawSession
from tests.support.sse_client import Frame, Response


class GatedLog(SqliteLog):
    """Commits events when the test says so."""

    gate: asyncio.Event
    asked: int
    fails: bool

    async def append(self, batch: Sequence[StreamWrite]) -> list[Outcome]:
        brought = sum(len(write.events) for write in batch)
        GatedLog.asked += brought
        if brought:
            await GatedLog.gate.wait()
        if GatedLog.fails:
            raise StoreError(url=self.name, reason="the test says so")
        return await super().append(batch)


@pytest.fixture
def gated(monkeypatch: pytest.MonkeyPatch) -> type[GatedLog]:
    """What every log is now; its gate is open."""
    real = worker.make_log

    def make(settings: Any) -> SqliteLog:
        log = real(settings)
        log.__class__ = GatedLog
        assert isinstance(log, GatedLog)
        return log

    monkeypatch.setattr(worker, "make_log", make)
    GatedLog.gate, GatedLog.asked, GatedLog.fails = asyncio.Event(), 0, False
    GatedLog.gate.set()
    return GatedLog


async def count(call: Call) -> None:
    """Three events, then the answer."""
    await call.head()
    for value in (1, 2, 3):
        await call.progress(value)
    await call.result()


async def quick(call: Call) -> None:
    """The answer, at once."""
    await call.head()
    await call.result()


async def whole(response: Response) -> list[Frame]:
    """All frames of a stream, which come without the store."""
    async with asyncio.timeout(5):
        return [frame async for frame in response.frames()]


async def is_held(task: "asyncio.Task[Any]") -> bool:
    """Whether nothing comes of it for a while."""
    done, _ = await asyncio.wait({task}, timeout=0.3)
    return not done


async def test_an_event_waits_for_its_commit(store: str, gated: type[GatedLog]) -> None:
    async with persisted(Scripted(count=count), store) as (port, _):
        session = await RawSession.open(port)
        gated.gate.clear()
        asked = gated.asked
        response = await session.call("count")
        # The application has said all it had to say, and the store has been asked to commit it.
        await until(lambda: gated.asked > asked)
        first = asyncio.create_task(response.take(1))
        assert await is_held(first), "an event was visible before its commit"
        gated.gate.set()
        seen = await first + await response.take(3)
    assert [frame.progress for frame in seen] == [1, 2, 3, None]


async def test_an_answer_reaches_whoever_asked_before_its_commit_and_nobody_else(
    store: str, gated: type[GatedLog]
) -> None:
    async with persisted(Scripted(quick=quick), store) as (port, _):
        session = await RawSession.open(port)
        gated.gate.clear()
        first, answer = await whole(await session.call("quick"))
        assert answer.is_response
        other = asyncio.create_task((await session.get(first.id)).take(1))
        assert await is_held(other), "a second reader had the answer before its commit"
        gated.gate.set()
        assert (await other)[-1].message == answer.message


async def test_an_answer_waits_for_the_commit_of_what_it_follows(
    store: str, gated: type[GatedLog]
) -> None:
    go_on = asyncio.Event()

    async def two(call: Call) -> None:
        await call.head()
        await call.progress(1)
        await go_on.wait()
        await call.result()

    async with persisted(Scripted(two=two), store) as (port, _):
        session = await RawSession.open(port)
        gated.gate.clear()
        asked = gated.asked
        response = await session.call("two")
        await until(lambda: gated.asked > asked)
        go_on.set()
        taken = asyncio.create_task(response.take(2))
        assert await is_held(taken)
        gated.gate.set()
        assert [frame.progress for frame in await taken] == [1, None]


@pytest.mark.parametrize("why", ["an old lease", "a slow store", "many that wait"])
async def test_an_answer_waits_for_its_commit_where_that_is_not_sure_to_come_soon(
    store: str, gated: type[GatedLog], monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    async with persisted(Scripted(quick=quick), store) as (port, _):
        session = await RawSession.open(port)
        gated.gate.clear()
        if why == "an old lease":
            monkeypatch.setattr(Lease, "is_young", False)
        elif why == "many that wait":
            monkeypatch.setattr(commits, "_FEW", 0)
        else:
            # The first one is on its way when the store turns out to be slow.
            monkeypatch.setattr(commits, "_LATE", 0.1)
            asked = gated.asked
            assert (await whole(await session.call("quick")))[-1].is_response
            await until(lambda: gated.asked > asked)
            await asyncio.sleep(2 * commits._LATE)
        response = await session.call("quick")
        taken = asyncio.create_task(response.take(1))
        assert await is_held(taken), why
        gated.gate.set()
        assert (await taken)[-1].is_response


async def test_an_answer_that_was_told_is_kept_although_the_store_fails_then(
    store: str, gated: type[GatedLog]
) -> None:
    async with persisted(Scripted(quick=quick), store, store_timeout=0.3) as (port, opened):
        session, context = await RawSession.open(port), await access_to(opened).context()
        gated.gate.clear()
        first, answer = await whole(await session.call("quick"))
        gated.fails = True
        gated.gate.set()
        await until(lambda: context.writer.is_down)
        gated.fails = False
        await until(lambda: not context.writer.live)
        (again,) = await (await session.get(first.id)).take(1)
        assert again.message == answer.message


async def test_an_answer_that_was_told_does_not_end_a_stream_that_another_worker_has_ended(
    store: str, gated: type[GatedLog]
) -> None:
    go_on = asyncio.Event()

    async def two(call: Call) -> None:
        await call.head()
        await call.progress(1)
        await go_on.wait()
        await call.result()

    async with persisted(Scripted(two=two), store) as (port, opened):
        session, context = await RawSession.open(port), await access_to(opened).context()
        response = await session.call("two")
        (first,) = await response.take(1)
        gated.gate.clear()
        go_on.set()
        assert (await whole(response))[-1].is_response
        (stream,) = context.writer.live.values()
        error = Event(2, 2, EventKind.RESPONSE, sse.event(b'{"id":2,"error":{"code":-1}}'))
        ending = Ending(StreamState.FAILED, 2, time.time(), time.time() + 60)
        entry = StreamWrite(stream.record.id, 2, takes_over=1, events=(error,), ending=ending)
        assert await SqliteLog.append(context.log.inner, [entry]) == [Outcome.COMMITTED]  # type: ignore[arg-type]
        gated.gate.set()
        await until(lambda: not context.writer.live)
        (again,) = await (await session.get(first.id)).take(1)
        assert "error" in again.message
        kept = await context.log.read(stream.record.id, 0, 10, 10_000)
        assert [event.sequence for event in kept] == [1, 2]


async def test_the_answer_of_a_request_that_is_run_again_waits_for_its_commit(
    store: str, gated: type[GatedLog]
) -> None:
    async with persisted(Scripted(work=quick), store, rerun=lambda *_: True) as (port, opened):
        context = await access_to(opened).context()
        entry, cursor = left_behind()
        await context.log.append([entry])
        session, asked = RawSession(port, MODERN), gated.asked
        # The first commit takes the stream over.
        gated.gate.clear()
        taken = asyncio.create_task((await session.get(cursor)).take(1))
        await until(lambda: gated.asked > asked)
        assert await is_held(taken)
        gated.gate.set()
        assert (await taken)[-1].is_response


async def test_the_answer_of_a_call_that_another_worker_has_passed_on_waits_for_its_commit(
    store: str, gated: type[GatedLog]
) -> None:
    app = Scripted(quick=quick)
    async with (
        persisted(app, store) as (port, _),
        # Other settings make another worker, on the same event loop.
        persisted(app, store, retry_ms=2999) as (other, _),
    ):
        session = await RawSession.open(port)
        session.port = other
        gated.gate.clear()
        asked = gated.asked
        taken = asyncio.create_task(_taken(session))
        await until(lambda: gated.asked > asked)
        assert await is_held(taken)
        gated.gate.set()
        assert (await taken)[-1].is_response


async def _taken(session: RawSession) -> list[Frame]:
    return await (await session.call("quick")).take(1)


async def test_what_a_client_has_seen_outlives_a_killed_process(tmp_path: Path) -> None:
    chance, server = random.Random(5), mcp_server(tmp_path, settings={"store_timeout": 1.0})
    told: list[tuple[RawSession, Frame]] = []
    for _ in range(6):
        await server.start()
        for before, first in told:
            # Who lost an answer together with the worker has it from the store, or hears of it.
            last = (await (await before.get(first.id)).take(1))[-1]
            assert last.is_response, last
        session = await RawSession.open(server.port)
        seen: list[tuple[str, str]] = []

        async def read(session: RawSession, seen: list[tuple[str, str]]) -> None:
            response = await session.call("count", n=20_000, delay=0)
            async for frame in response.frames():
                if frame.id and frame.data:
                    seen.append((frame.id, frame.data))

        readers = [asyncio.create_task(read(session, seen)) for _ in range(3)]
        wanted = chance.randrange(50, 800)
        await until(lambda seen=seen, wanted=wanted: len(seen) >= wanted)
        first, answer = await whole(await session.call("count", n=0))
        assert answer.is_response
        told = [(session, first)]
        await server.kill()
        await asyncio.wait(readers, timeout=10)
        assert all(isinstance(task.exception(), Exception) for task in readers)
        _check(tmp_path / "events.db", seen)


def _check(path: Path, seen: list[tuple[str, str]]) -> None:
    """Every event that was seen is in the file under its number; no number is missing."""
    with sqlite3.connect(path) as store:
        assert store.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        rows = store.execute("SELECT stream, sequence, epoch, payload FROM mcp_event").fetchall()
    stored = {(stream, sequence, epoch): payload for stream, sequence, epoch, payload in rows}
    for text, data in seen:
        position = event_id.parse(text)
        assert position is not None
        payload = stored[position.stream, position.sequence, position.epoch]
        assert data.encode() in payload
    for stream in {key[0] for key in stored}:
        numbers = sorted(key[1] for key in stored if key[0] == stream)
        assert numbers == list(range(1, len(numbers) + 1))
