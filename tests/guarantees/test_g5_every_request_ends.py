"""G5: every request ends, with its own answer or, when nobody computes one, with an error."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from mcp_persist_middleware.log.takeover import Takeover
from mcp_persist_middleware.maintenance.reaper import OrphanReaper
from mcp_persist_middleware.persistence import access_to
from mcp_persist_middleware.protocol import event_id
from tests.faults.workers import Store
from tests.guarantees.ending_app import TOOLS, Batches
from tests.support.processes import ServerProcess, running
from tests.support.scripted import persisted, until
from tests.support.session import RawSession
from tests.support.sse_client import Frame, Response

INTERRUPTED = -32000
ID = pytest.mark.parametrize("request_id", [1, "1", 0, 'a "quoted" ü'])


@pytest.fixture
def file(tmp_path: Path) -> Store:
    """What the store says."""
    return Store(tmp_path / "events.db")


@asynccontextmanager
async def process(directory: Path, name: str = "server") -> AsyncIterator[ServerProcess]:
    """A real server, killed at the end."""
    environ = {"TEST_PERSIST": f"sqlite+aiosqlite:///{directory / 'events.db'}"}
    module, log = "tests.guarantees.ending_app:app()", directory / f"{name}.log"
    async with running(ServerProcess(module, log, environ=environ)) as server:
        yield server


async def call(session: RawSession, tool: str, request_id: Any) -> Response:
    """A tool call under this very id."""
    return await session.post("tools/call", {"name": tool}, request_id=request_id)


async def batch(session: RawSession, *requests: tuple[Any, str]) -> Response:
    """Several calls in one POST."""
    body = [
        {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": {"name": tool}}
        for number, tool in requests
    ]
    return await session._send(body, session.headers())  # type: ignore[arg-type]


async def rest(response: Response) -> list[Frame]:
    """All that still comes, down to the clean end of the body."""
    return [frame async for frame in response.frames() if frame.data]


def ends(frames: list[Frame]) -> list[tuple[Any, str]]:
    """Which requests are answered, and how: a result, or our error."""
    found = []
    for frame in frames:
        if frame.is_response:
            error = frame.message.get("error")
            assert error is None or error["code"] == INTERRUPTED
            found.append((frame.message["id"], "result" if error is None else "error"))
    return found


async def over(session: RawSession, frames: list[Frame]) -> None:
    """Whoever comes back finds the same end again, and behind it nothing."""
    again = await rest(await session.get(frames[0].id))
    assert [frame.data for frame in again] == [frame.data for frame in frames[1:]]
    assert (await session.get(frames[-1].id)).status == 204


@ID
@pytest.mark.parametrize("tool", ["raises", "returns", "closes", "lingers"])
async def test_a_call_that_the_application_leaves_unanswered_is_answered_with_an_error(
    store: str, tool: str, request_id: Any
) -> None:
    async with persisted(Batches(**TOOLS), store) as (port, persistence):
        session = await RawSession.open(port)
        frames = await rest(await call(session, tool, request_id))
        assert ends(frames) == [(request_id, "error")]
        assert frames[0].progress == 1
        data = frames[-1].message["error"]["data"]
        assert data["events"] == 1
        assert frames[0].id.startswith(data["stream"])
        await over(session, frames)
        context = await access_to(persistence).context()
        await until(lambda: len(context.tasks) == (tool == "lingers"))


@ID
async def test_a_call_whose_process_was_killed_ends_for_a_reader_without_any_reaper(
    tmp_path: Path, store: str, request_id: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def sleep(_: OrphanReaper) -> None:
        await asyncio.Event().wait()

    async with process(tmp_path) as server:
        session = await RawSession.open(server.port)
        frames = await (await call(session, "hang", request_id)).take(1)
    monkeypatch.setattr(OrphanReaper, "run", sleep)
    async with persisted(Batches(**TOOLS), store) as (port, _):
        session.port = port
        began = time.monotonic()
        frames += await rest(await session.get(frames[0].id))
        assert time.monotonic() - began < 5, "the lock of a process that is gone tells at once"
        assert ends(frames) == [(request_id, "error")]
        await over(session, frames)


@ID
async def test_a_call_whose_process_was_killed_ends_without_any_reader(
    tmp_path: Path, store: str, file: Store, request_id: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def look_on(*_: Any) -> None: ...

    # A reader ends nothing here.
    monkeypatch.setattr(Takeover, "left", look_on)
    async with process(tmp_path) as server:
        session = await RawSession.open(server.port)
        frames = await (await call(session, "hang", request_id)).take(1)
    position = event_id.parse(frames[0].id)
    state = "SELECT ended_at FROM mcp_stream WHERE id = ?"
    assert file.rows(state, position.stream) == [(None,)]
    async with persisted(Batches(**TOOLS), store) as (port, _):
        await until(lambda: file.rows(state, position.stream) != [(None,)], 5)
        session.port = port
        frames += await rest(await session.get(frames[0].id))
        assert ends(frames) == [(request_id, "error")]


async def test_a_reader_that_waits_elsewhere_while_the_process_is_killed_is_told(
    tmp_path: Path,
) -> None:
    async with process(tmp_path, "one") as one, process(tmp_path, "two") as two:
        session = await RawSession.open(one.port)
        frames = await (await call(session, "hang", 7)).take(1)
        session.port = two.port
        waiting = asyncio.create_task(rest(await session.get(frames[0].id)))
        await one.kill()
        began = time.monotonic()
        frames += await waiting
        assert time.monotonic() - began < 5
        assert ends(frames) == [(7, "error")]
        assert "not run again" in frames[-1].message["error"]["message"]


async def test_each_request_of_a_batch_ends_and_those_that_were_answered_keep_their_answer(
    tmp_path: Path, store: str
) -> None:
    requests = ((1, "answers"), ("1", "hang"), (2, "answers"), (3, "hang"))
    expected = [(1, "result"), (2, "result"), ("1", "error"), (3, "error")]
    async with process(tmp_path) as server:
        session = await RawSession.open(server.port, "2025-03-26")
        frames = await (await batch(session, *requests)).take(2)
        assert ends(frames) == expected[:2]
        await server.wait_for_log("begun batch")
    async with persisted(Batches(**TOOLS), store) as (port, _):
        session.port = port
        frames += await rest(await session.get(frames[-1].id))
        assert sorted(ends(frames), key=str) == sorted(expected, key=str)
        await over(session, frames)


@pytest.mark.parametrize("tool", ["raises", "returns", "closes"])
async def test_a_batch_that_the_application_leaves_is_answered_request_by_request(
    store: str, tool: str
) -> None:
    async with persisted(Batches(**TOOLS), store) as (port, _):
        session = await RawSession.open(port, "2025-03-26")
        frames = await rest(await batch(session, ("1", "answers"), (1, tool)))
        assert ends(frames) == [("1", "result"), (1, "error")]
        frames = await rest(await batch(session, (1, "answers"), ("1", tool)))
        assert ends(frames) == [(1, "result"), ("1", "error")]
        await over(session, frames)


async def test_a_batch_is_over_with_its_last_answer_and_not_with_its_first(store: str) -> None:
    async with persisted(Batches(**TOOLS), store) as (port, _):
        session = await RawSession.open(port, "2025-03-26")
        frames = await rest(await batch(session, (1, "answers"), ("1", "answers")))
        assert ends(frames) == [(1, "result"), ("1", "result")]
        await over(session, frames)
