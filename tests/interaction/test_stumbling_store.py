"""What becomes of calls that are to be jobs where the store does not answer at once, or has done
what it was asked and is not heard."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from mcp_persist_middleware import PersistMiddleware
from mcp_persist_middleware.errors import StoreError
from mcp_persist_middleware.log.record_jobs import RecordJobs
from mcp_persist_middleware.model import JobCreation, JobRecord
from mcp_persist_middleware.persistence import access_to
from mcp_persist_middleware.stores.sql.jobs import SqlJobs
from mcp_persist_middleware.streams.hints.boards import Boards
from mcp_persist_middleware.testing import MemoryLog, Shelf
from tests.interaction.test_core_tasks import Server, TaskSession
from tests.interaction.test_hand_back import Held, Listing, text_of
from tests.interaction.test_idempotency import keyed
from tests.interaction.test_tasks import Application
from tests.support.scripted import persisted, serving, until
from tests.support.session import HANDSHAKE, MODERN, RawSession
from tests.support.task_client import TaskClient

_ANN = {"authorization": "Bearer ann"}
Create = Callable[[SqlJobs, JobRecord, int, int], Awaitable[JobCreation]]


def stumbling(create: Create, fails: Iterator[str]) -> Create:
    """`SqlJobs.create` whose attempts fail `before` they reach the store, or are not heard `after`
    that."""

    async def attempt(jobs: SqlJobs, job: JobRecord, most: int, of_one: int) -> JobCreation:
        how = next(fails, "")
        made = None if how == "before" else await create(jobs, job, most, of_one)
        if made is None or how == "after":
            raise StoreError(url="x", reason="no answer")
        return made

    return attempt


@pytest.mark.parametrize("how", ["before", "after"])
async def test_a_call_becomes_one_task_where_the_store_answers_the_second_time(
    tmp_store: str, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(SqlJobs, "create", stumbling(SqlJobs.create, iter([how])))
    app = Application()
    async with persisted(app, tmp_store, tasks_after=0.1) as (port, persistence):
        context = await access_to(persistence).context()
        begun = await TaskClient(port).call("stream")
        app.gate.set()
        assert (await TaskClient(port).until(begun["taskId"]))["status"] == "completed"
        assert context.log.jobs is not None
        assert len(await context.log.jobs.list(None, b"", 10)) == 1
        assert not context.doubtful


async def test_a_call_that_was_refused_leaves_its_key_to_the_next_one(
    tmp_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = SqlJobs.create
    monkeypatch.setattr(SqlJobs, "create", stumbling(create, iter(["after"] + ["before"] * 100)))
    app = Listing(slow=(tool := Held()))
    tool.done.set()
    settings: dict[str, Any] = {"idempotency": True, "store_timeout": 0.3}
    async with persisted(app, tmp_store, **settings) as (port, persistence):
        context = await access_to(persistence).context()
        session = RawSession(port, MODERN, extra=keyed(_ANN))
        refused = await session.call("slow")
        await refused.body()
        assert (refused.status, tool.runs) == (503, 0)
        monkeypatch.setattr(SqlJobs, "create", create)
        jobs = context.log.jobs
        assert jobs is not None
        async with asyncio.timeout(10):
            while await jobs.list(None, b"", 10):
                await asyncio.sleep(0.02)
        assert await text_of(await session.call("slow")) == "run 1"
        # What it is told to forget is not what has come after that.
        assert await text_of(await session.call("slow")) == "run 1"
        assert tool.runs == 1


async def test_who_comes_between_a_key_and_its_job_is_told_to_ask_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    take_key, taken, go_on = RecordJobs._take_key, asyncio.Event(), asyncio.Event()

    async def slowly(jobs: RecordJobs, job: JobRecord) -> bool:
        found = await take_key(jobs, job)
        if found:
            taken.set()
            await go_on.wait()
        return found

    monkeypatch.setattr(RecordJobs, "_take_key", slowly)
    app, shelf = Listing(slow=(tool := Held())), Shelf()
    settings: dict[str, Any] = {"idempotency": True, "store_timeout": 0.3}
    middleware = PersistMiddleware(app, log=lambda _: MemoryLog(shelf), **settings)
    async with serving(middleware) as port:
        session = RawSession(port, MODERN, extra=keyed(_ANN))
        first = asyncio.create_task(session.call("slow"))
        await taken.wait()
        refused = await session.call("slow")
        await refused.body()
        assert refused.status == 503
        second = asyncio.create_task(session.call("slow"))
        go_on.set()
        await until(lambda: tool.runs)
        tool.done.set()
        assert [await text_of(await each) for each in (first, second)] == ["run 1", "run 1"]
        assert tool.runs == 1


async def test_a_task_goes_on_where_the_store_has_taken_an_answer_and_is_not_heard(
    tmp_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    change, changed = SqlJobs.change, 0

    async def unheard(jobs: SqlJobs, job: JobRecord) -> bool:
        nonlocal changed
        changed += 1
        done = await change(jobs, job)
        if changed == 1:
            raise StoreError(url="x", reason="no answer")
        return done

    app = Application()
    async with persisted(app, tmp_store, tasks_after=0.1) as (port, _):
        client = TaskClient(port)
        task = (await client.call("ask"))["taskId"]
        app.gate.set()
        await client.until(task, "input_required")
        monkeypatch.setattr(SqlJobs, "change", unheard)
        given = {"taskId": task, "inputResponses": {"a": 1, "b": 2}}
        assert (await client.ask("tasks/update", given))["result"] == {"resultType": "complete"}
        await client.until(task, "input_required")
        assert len(app.calls) == 2
        assert changed > 1


async def test_a_task_goes_on_whose_client_has_gone_with_its_last_answer(
    tmp_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    change, asking, go_on = SqlJobs.change, asyncio.Event(), asyncio.Event()

    async def slowly(jobs: SqlJobs, job: JobRecord) -> bool:
        done = await change(jobs, job)
        asking.set()
        await go_on.wait()
        return done

    app, requests = Application(), list[asyncio.Task[Any]]()

    async def noted(scope: Any, receive: Any, send: Any) -> None:
        task = asyncio.current_task()
        assert task is not None
        requests.append(task)
        await outer(scope, receive, send)

    outer = PersistMiddleware(app, url=tmp_store, tasks_after=0.1)
    async with serving(noted) as port:
        client = TaskClient(port)
        task = (await client.call("ask"))["taskId"]
        app.gate.set()
        await client.until(task, "input_required")
        monkeypatch.setattr(SqlJobs, "change", slowly)
        given = {"taskId": task, "inputResponses": {"a": 1, "b": 2}}
        leaving = asyncio.create_task(client.ask("tasks/update", given))
        await asking.wait()
        # As a server does whose time for a request is over.
        requests[-1].cancel()
        go_on.set()
        await client.until(task, "input_required")
        await asyncio.gather(leaving, return_exceptions=True)


@pytest.mark.parametrize("where", ["before its key is claimed", "while it is"])
async def test_a_call_that_is_cancelled_before_it_runs_leaves_its_key_to_the_next_one(
    tmp_store: str, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    create, before_call, waits = SqlJobs.create, Boards.before_call, asyncio.Event()
    requests, app = list[asyncio.Task[Any]](), Listing(slow=(tool := Held()))
    tool.done.set()

    async def created(jobs: SqlJobs, *job: Any) -> JobCreation:
        made = await create(jobs, *job)
        waits.set()
        await asyncio.Event().wait()
        return made

    async def called(*_: Any) -> None:
        waits.set()
        await asyncio.Event().wait()

    async def noted(scope: Any, receive: Any, send: Any) -> None:
        task = asyncio.current_task()
        assert task is not None
        requests.append(task)
        await outer(scope, receive, send)

    outer = PersistMiddleware(app, url=tmp_store, idempotency=True, lease_seconds=6)
    async with serving(noted) as port:
        session = RawSession(port, MODERN, extra=keyed(_ANN))
        if where == "while it is":
            monkeypatch.setattr(SqlJobs, "create", created)
        else:
            monkeypatch.setattr(Boards, "before_call", called)
        cut = asyncio.create_task(session.call("slow"))
        async with asyncio.timeout(10):
            await waits.wait()
        requests[-1].cancel()
        await asyncio.gather(cut, return_exceptions=True)
        monkeypatch.setattr(SqlJobs, "create", create)
        monkeypatch.setattr(Boards, "before_call", before_call)
        jobs = (await access_to(outer.persistence).context()).log.jobs
        assert jobs is not None
        async with asyncio.timeout(5):
            while await jobs.list(None, b"", 10):
                await asyncio.sleep(0.02)
        assert await text_of(await session.call("slow")) == "run 1"
        assert tool.runs == 1


@pytest.mark.parametrize("version", [HANDSHAKE, MODERN])
async def test_a_poll_that_is_slow_at_every_step_is_answered_within_the_stores_time(
    tmp_store: str, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    modern, before = Application(), Server()
    modern.gate.set()
    app: Any = modern if version == MODERN else before
    settings: dict[str, Any] = {"tasks_after": 0.0, "store_timeout": 1.0}
    async with persisted(app, tmp_store, **settings) as (port, persistence):
        log = (await access_to(persistence).context()).log
        client: Any
        if version == MODERN:
            client = TaskClient(port)
            task = (await client.call("stream"))["taskId"]
            await client.until(task)
        else:
            client = await TaskSession.open(port)
            task = (await client.begin("short"))["taskId"]
            await client.reached(task, "completed")

        def slow(step: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
            async def later(*given: Any) -> Any:
                # In time by itself.
                await asyncio.sleep(0.7)
                return await step(*given)

            return later

        for part, name in ((log.jobs, "find"), (log, "find"), (log, "answers")):
            monkeypatch.setattr(part, name, slow(getattr(part, name)))
        began = asyncio.get_running_loop().time()
        response = await client.post("tasks/get", {"taskId": task})
        assert response.status == 503
        assert asyncio.get_running_loop().time() - began < 2.0
        response.close()
