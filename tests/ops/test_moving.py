"""A server that moves to another store: what its clients hold is good for the new one."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from mcp_persist_middleware.model import SessionKey
from mcp_persist_middleware.ops.copy import Copied, copy
from mcp_persist_middleware.settings import Settings
from mcp_persist_middleware.stores.connect import make_log
from mcp_persist_middleware.testing.contract.builders import ALL, add, events, new, record
from tests.interaction.test_hand_back import Held
from tests.interaction.test_tasks import Application
from tests.ops.conftest import New
from tests.ops.filled import Given, worker
from tests.ops.test_copy import copied
from tests.support.scripted import Call, Scripted, persisted
from tests.support.session import RawSession
from tests.support.task_client import TaskClient

USER = {"authorization": "Bearer somebody"}


async def three(call: Call) -> None:
    """Three events, then the answer."""
    await call.head()
    for value in (1, 2, 3):
        await call.progress(value)
    await call.result()


async def endless(call: Call) -> None:
    """One event, and no answer."""
    await call.head()
    await call.progress(1)
    await asyncio.Event().wait()


def app() -> Scripted:
    """The application, before the move and after it."""
    return Scripted(three=three, endless=endless)


async def _moved(source: Given, target: Given) -> asyncio.Task[Copied]:
    """A copy that follows."""
    following = asyncio.create_task(copy(source, target, follow=True, verify=True))
    await copied(target, following)
    return following


@pytest.fixture(params=["sqlite-postgres", "postgres-sqlite"])
def pair(request: pytest.FixtureRequest, new_store: New) -> tuple[Given, Given]:
    """The old store and the new one."""
    first, second = request.param.split("-")
    return new_store(first), new_store(second)


async def test_clients_go_on_in_the_new_store_with_the_cursors_and_sessions_of_the_old(
    pair: tuple[Given, Given],
) -> None:
    source, target = pair
    async with persisted(app(), source["url"], store_timeout=0.8) as (port, _):
        session = await RawSession.open(port, extra=USER)
        before = await (await session.call("three")).take(4)
        following = await _moved(source, target)
        # While it is copied calls run, one to its end, one beyond the server's.
        during = await (await session.call("three")).take(4)
        cut = await (await session.call("endless")).take(1)
        gone = await RawSession.open(port, extra=USER)
        assert await gone.delete() == 200
    done = await following
    async with persisted(app(), target["url"], store_timeout=0.8) as (port, _):
        later = replace(session, port=port)
        for frames in (before, during):
            replay = [f async for f in (await later.get(frames[0].id)).frames() if f.data]
            assert [f.id for f in replay] == [f.id for f in frames[1:]]
            assert [f.data for f in replay] == [f.data for f in frames[1:]]
            assert (await later.get(frames[-1].id)).status == 204
        # Its server has ended it, honestly, before it left.
        (answer,) = [f async for f in (await later.get(cut[-1].id)).frames() if f.data]
        assert "error" in answer.message
        # Nobody else reads it.
        other = replace(later, extra={"authorization": "Bearer another"})
        (refused,) = [f async for f in (await other.get(before[0].id)).frames() if f.data]
        assert "error" in refused.message
        assert len(await (await later.call("three")).take(4)) == 4, "the session lives on"
    async with worker(target) as log:
        found = await log.sessions.find(SessionKey("default", "/mcp", str(gone.session_id)))
        assert found is not None
        assert found.deleted
    assert done.comparison is not None
    assert done.comparison.ok


async def test_tasks_and_keys_of_the_old_store_are_answered_from_the_new_one(
    pair: tuple[Given, Given],
) -> None:
    source, target = pair
    settings: Any = {"tasks_after": 0.1, "store_timeout": 0.8, "idempotency": True}
    before, ends = Application(), Held()
    ends.done.set()
    before.tools["keyed"] = ends
    params = {"name": "keyed", "arguments": {"size": 1}}
    async with persisted(before, source["url"], drain_seconds=0.2, **settings) as (port, _):
        client = TaskClient(port, extra=USER)
        ended = (await client.call("stream"))["taskId"]
        before.gate.set()
        done = await client.until(ended)
        before.gate.clear()
        following = await _moved(source, target)
        # Both while it is copied: a task that is cut with its server, and a call with a key.
        cut = (await client.call("stream"))["taskId"]
        keyed = await client.ask("tools/call", params, idempotency_key="k-1")
    assert (await following).comparison is not None
    again = Held()
    again.done.set()
    after = Application()
    after.tools["keyed"] = again
    async with persisted(after, target["url"], **settings) as (port, _):
        client = TaskClient(port, extra=USER)
        assert await client.get(ended) == done
        assert (await client.until(cut))["status"] == "failed"
        answer = await client.ask("tools/call", params, idempotency_key="k-1")
        assert answer["result"] == keyed["result"]
        assert (ends.runs, again.runs) == (1, 0), "it ran once, in the old server"
        other = TaskClient(port, extra={"authorization": "Bearer another"})
        assert "error" in await other.ask("tasks/get", {"taskId": ended})


async def test_a_server_that_dies_instead_leaves_its_open_calls_to_the_new_one(
    new_store: New,
) -> None:
    source, target = new_store("sqlite"), new_store("sqlite")
    async with persisted(app(), source["url"], store_timeout=0.8) as (port, _):
        session = await RawSession.open(port)
        frames: list[Any] = await (await session.call("endless")).take(1)
        # As it is in the store at this moment, with its worker gone.
        await copy(source, target)
    async with persisted(app(), target["url"], store_timeout=0.8) as (port, _):
        later = replace(session, port=port)
        (answer,) = [f async for f in (await later.get(frames[-1].id)).frames() if f.data]
        assert "Interrupted" in answer.message["error"]["message"]


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
async def test_what_only_redis_has_of_a_dead_worker_comes_along(
    kind: str, new_store: New, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = new_store(kind) | {"redis": redis_url}
    target = new_store("sqlite")
    settings = Settings.load(source)
    log: Any = make_log(settings)
    await log.open("one")
    stream = record()
    await log.append([new(stream, *events(1, 2))])
    # It dies before anything is flushed any more.
    for task in log._tasks:
        task.cancel()
    await log.append([add(stream, *events(3, 4))])
    assert len(await log.inner.read(stream.id, 0, *ALL)) < 6, "Redis alone has them"
    await log._client.aclose()
    await log.inner.aclose()
    done = await copy(source, target, follow=True)
    assert done.events == 6
    async with worker(target) as there:
        assert [e.sequence for e in await there.read(stream.id, 0, *ALL)] == [1, 2, 3, 4, 5, 6]
