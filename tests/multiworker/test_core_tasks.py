"""Tasks of 2025-11-25 of a plain server in two processes: begun and asked for at either, and what
becomes of them when their own is gone."""

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import pytest

from tests.interaction.test_core_tasks import TaskSession
from tests.interaction.test_hand_back import answer_of
from tests.interaction.test_job_ends import beside_one_that_dies
from tests.multiworker.servers import two_servers
from tests.support.session import RawSession, last_id
from tests.support.sse_client import Frame, Response
from tests.support.stores import Store

pytestmark = pytest.mark.timeout(60)

FAST: dict[str, object] = {"lease_seconds": 2, "store_timeout": 1}


@pytest.mark.parametrize("store", ["sqlite", "postgres+redis"], indirect=True)
async def test_a_task_is_begun_and_asked_for_at_either_worker_and_fails_with_its_own(
    tmp_path: Path, store: Store
) -> None:
    async with two_servers(tmp_path, store=store, **FAST) as (one, two):
        here = await TaskSession.open(one.port)
        there = TaskSession(two.port, session_id=here.session_id, _ids=here._ids)
        arguments = {"arguments": {"n": 4, "delay": 0.1}}
        names = [(await each.begin("count", **arguments))["taskId"] for each in (here, there)]
        for name in names:
            for each in (here, there):
                response = await each.post("tasks/result", {"taskId": name})
                last = [frame.message async for frame in response.frames() if frame.data][-1]
                assert last["result"]["content"][0]["text"] == "counted 4"
        listed = (await there.ask("tasks/list"))["result"]["tasks"]
        assert {each["taskId"] for each in listed} == set(names)
        assert one.log.count("started") == len(names)
        # Its own worker is killed: the session comes back elsewhere, the call does not.
        long = (await there.begin("count", arguments={"n": 300, "delay": 0.1}))["taskId"]
        assert await there.status(long) == "working"
        await one.kill()
        async with asyncio.timeout(15):
            while await there.status(long) != "failed":
                await asyncio.sleep(0.1)
        error = (await there.ask("tasks/result", taskId=long))["error"]
        assert "gone" in error["message"]
        assert await there.status(names[0]) == "completed"
        await one.start()


async def test_a_question_about_a_task_whose_home_dies_is_answered_by_the_next(
    tmp_path: Path, tmp_store: str
) -> None:
    """An error would be read as the end of the task."""
    async with beside_one_that_dies(tmp_path, tmp_store, "nothing") as (one, two):
        session, task, result = await finished_task(one.port)
        (tmp_path / "armed").write_text("looked")
        session.port = two
        found = await answer_of(await session.post("tasks/get", task))
        assert not one.is_running
        assert found["result"]["status"] == "completed"
        again = await answer_of(await session.post("tasks/result", task))
        assert again["result"] == result["result"]


async def test_a_result_whose_worker_dies_while_it_tells_it_is_told_by_the_next(
    tmp_path: Path, tmp_store: str
) -> None:
    async with beside_one_that_dies(tmp_path, tmp_store, "nothing") as (one, two):
        session, task, result = await finished_task(one.port)
        (tmp_path / "armed").write_text("telling")
        cut = await session.post("tasks/result", task, request_id=77)
        seen = await until_cut(cut)
        assert last_id(seen) is not None
        assert not any(frame.data for frame in seen)
        session.port = two
        again = await answer_of(await session.get(last_id(seen)))
        assert not one.is_running
        assert again == {**result, "id": 77}
        assert (tmp_path / "runs").read_text().count("it ") == 1


async def until_cut(response: Response) -> list[Frame]:
    """What comes before the connection breaks."""
    seen: list[Frame] = []
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
        async for frame in response.frames():
            seen.append(frame)
    return seen


async def finished_task(port: int) -> tuple[RawSession, dict[str, Any], Any]:
    """A session, what names its finished task, and the answer to a `tasks/result` for it."""
    session = await RawSession.open(port)
    work = {"name": "it", "seconds": 0.1, "as_json": False}
    response = await session.post("tools/call", {"name": "work", "arguments": work, "task": {}})
    task = {"taskId": (await answer_of(response))["result"]["task"]["taskId"]}
    return session, task, await answer_of(await session.post("tasks/result", task))
