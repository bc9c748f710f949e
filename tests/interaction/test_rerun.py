"""A request is run again by one worker alone, and for nobody but its owner, even where everything
changes between the question whether it was left behind and the run."""

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest

from mcp_persist_middleware.model import (
    Event,
    EventKind,
    Owner,
    StreamKind,
    StreamRecord,
    StreamState,
    StreamWrite,
)
from mcp_persist_middleware.persistence import access_to
from mcp_persist_middleware.protocol import sse
from mcp_persist_middleware.protocol.event_id import EventIds, new_stream_id
from mcp_persist_middleware.streams.stored_request import StoredRequest
from tests.support.scripted import Call, Scripted, persisted
from tests.support.session import MODERN, RawSession
from tests.support.sse_client import Frame

HEADERS = [
    (b"content-type", b"application/json"),
    (b"accept", b"application/json, text/event-stream"),
    (b"mcp-protocol-version", MODERN.encode()),
]


def left_behind(method: str = "tools/call") -> tuple[StreamWrite, str]:
    """A stream that a worker who is gone has left open after one event, and the event's id."""
    params = {"name": "work", "arguments": {}, "taskId": "t" * 32}
    body = json.dumps({"jsonrpc": "2.0", "id": 7, "method": method, "params": params})
    record = StreamRecord(
        id=new_stream_id(),
        kind=StreamKind.POST,
        owner=Owner("default", "/mcp", "", ""),
        epoch=1,
        state=StreamState.OPEN,
        last_sequence=0,
        worker="gone",
        created_at=time.time(),
        ended_at=None,
        expires_at=None,
        request_ids="[7]",
        trace="",
        request=StoredRequest(HEADERS, body.encode()).pack(),
    )
    event = Event(1, 1, EventKind.MESSAGE, sse.event(b'{"first":"run"}'))
    cursor = EventIds.of(record.id, record.kind, 7).at(1, 1).decode()
    return StreamWrite(record.id, 1, create=record, events=(event,)), cursor


async def test_the_second_of_two_workers_reads_what_the_first_one_runs(tmp_path: Path) -> None:
    ran = 0

    async def work(call: Call) -> None:
        nonlocal ran
        ran += 1
        await call.head()
        await call.progress(1)
        await call.result()

    asked: list[Any] = []

    def rerun(session: str | None, request: dict[str, Any]) -> bool:
        asked.append((session, request["method"], request["id"]))
        return True

    url, app = f"sqlite+aiosqlite:///{tmp_path / 'events.db'}", Scripted(work=work)
    both = asyncio.Barrier(2)
    async with (
        persisted(app, url, rerun=rerun) as (port, one),
        # Other settings make another worker, on the same event loop.
        persisted(app, url, rerun=rerun, retry_ms=2999) as (other_port, two),
    ):
        logs: list[Any] = [(await access_to(each).context()).log for each in (one, two)]
        write, cursor = left_behind()
        await logs[0].append([write])

        def meeting(append: Any) -> Any:
            async def meet(batch: list[StreamWrite]) -> Any:
                if any(entry.takes_over for entry in batch):
                    await asyncio.wait_for(both.wait(), 10)
                return await append(batch)

            return meet

        for log in logs:
            log.append = meeting(log.append)

        async def read(at: int) -> list[Frame]:
            response = await RawSession(at, MODERN).get(cursor)
            return [frame async for frame in response.frames() if frame.data]

        found = await asyncio.gather(read(port), read(other_port))
        assert ran == 1
        assert asked == [(None, "tools/call", 7)] * 2
        for frames in found:
            assert [frame.progress for frame in frames] == [1, None]
            assert "result" in frames[-1].message


@pytest.mark.parametrize("by", ["another worker", "this worker"])
async def test_a_request_that_is_run_by_now_is_read_and_not_run_once_more(
    tmp_path: Path, by: str
) -> None:
    ran, asks = 0, 0
    is_asked, is_taken, may_end = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def work(call: Call) -> None:
        nonlocal ran
        ran += 1
        await call.head()
        await call.progress(ran)
        await asyncio.wait_for(may_end.wait(), 10)
        await call.result()

    app = Scripted(work=work)

    async def slow(*called: Any) -> None:
        """The second question is answered when the request is running."""
        nonlocal asks
        asks += called[0]["type"] == "http"
        if asks == 2:
            is_asked.set()
            await asyncio.wait_for(is_taken.wait(), 10)
        await app(*called)

    url = f"sqlite+aiosqlite:///{tmp_path / 'events.db'}"
    async with (
        persisted(app, url, rerun=lambda *_: True) as (port, persistence),
        persisted(slow, url, rerun=lambda *_: True, retry_ms=2999) as (slow_port, _),
    ):
        write, cursor = left_behind()
        await (await access_to(persistence).context()).log.append([write])
        second = asyncio.create_task(RawSession(slow_port, MODERN).get(cursor))
        await asyncio.wait_for(is_asked.wait(), 10)
        first = await RawSession(slow_port if by == "this worker" else port, MODERN).get(cursor)
        assert [frame.progress for frame in await first.take(1)] == [1]
        is_taken.set()
        reading = await second
        assert [frame.progress for frame in await reading.take(1)] == [1]
        may_end.set()
        for response in (first, reading):
            rest = [frame async for frame in response.frames() if frame.data]
            assert ["result" in frame.message for frame in rest] == [True]
        assert ran == 1


async def test_who_is_refused_before_the_run_gets_the_refusal_and_may_come_back(
    tmp_path: Path,
) -> None:
    async def work(call: Call) -> None:
        await call.head()
        await call.result()

    app = Scripted(work=work)
    app.allow = lambda _: len(app.requests) != 2
    url = f"sqlite+aiosqlite:///{tmp_path / 'events.db'}"
    async with persisted(app, url, rerun=lambda *_: True) as (port, persistence):
        write, cursor = left_behind()
        await (await access_to(persistence).context()).log.append([write])
        refused = await RawSession(port, MODERN).get(cursor)
        assert (refused.status, await refused.body()) == (401, b"who are you?")
        assert not app.calls
        response = await RawSession(port, MODERN).get(cursor)
        (answer,) = [frame async for frame in response.frames() if frame.data]
        assert "result" in answer.message


async def test_who_is_somebody_else_before_the_run_has_nothing_run(tmp_path: Path) -> None:
    app = Scripted()

    def principal(_: Any) -> str | None:
        return "somebody else" if len(app.requests) > 1 else None

    url, settings = f"sqlite+aiosqlite:///{tmp_path / 'events.db'}", {"principal": principal}
    async with persisted(app, url, rerun=lambda *_: True, **settings) as (port, persistence):
        write, cursor = left_behind()
        log = (await access_to(persistence).context()).log
        await log.append([write])
        response = await RawSession(port, MODERN).get(cursor)
        # The stream goes on as it is, and nobody writes it.
        assert response.status == 200
        assert len(app.requests) == 2
        assert not app.calls
        assert await log.find(write.id) == write.create
        response.close()


async def test_a_setting_that_raises_runs_nothing(tmp_path: Path) -> None:
    def rerun(session: str | None, request: dict[str, Any]) -> bool:
        raise ZeroDivisionError

    app = Scripted()
    url = f"sqlite+aiosqlite:///{tmp_path / 'events.db'}"
    async with persisted(app, url, rerun=rerun) as (port, persistence):
        write, cursor = left_behind()
        await (await access_to(persistence).context()).log.append([write])
        response = await RawSession(port, MODERN).get(cursor)
        frames = [frame async for frame in response.frames() if frame.data]
        assert "not run again" in frames[-1].message["error"]["message"]
        assert not app.calls


async def test_a_question_about_a_task_of_the_applications_own_is_asked_again_only_if_wanted(
    tmp_path: Path,
) -> None:
    asked: list[str] = []

    def rerun(session: str | None, request: dict[str, Any]) -> bool:
        asked.append(request["method"])
        return False

    app = Scripted()
    url = f"sqlite+aiosqlite:///{tmp_path / 'events.db'}"
    async with persisted(app, url, rerun=rerun) as (port, persistence):
        write, cursor = left_behind("tasks/result")
        await (await access_to(persistence).context()).log.append([write])
        response = await RawSession(port, MODERN).get(cursor)
        frames = [frame async for frame in response.frames() if frame.data]
        assert "error" in frames[-1].message
        assert asked == ["tasks/result"]
        assert not app.calls
