"""A call that takes long becomes a task, for a client of 2026-07-28 that knows tasks, in front of
an application that has never heard of them."""

import asyncio
import contextlib
import functools
import json
import logging
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.middleware.cors import CORSMiddleware

from mcp_persist_middleware import PersistMiddleware
from mcp_persist_middleware.errors import StoreError
from mcp_persist_middleware.log.record_jobs import RecordJobs
from mcp_persist_middleware.persistence import access_to
from mcp_persist_middleware.protocol import job_id
from mcp_persist_middleware.store import JobCreation, JobRecord, Owner, StreamRecord
from mcp_persist_middleware.stores.sql.jobs import SqlJobs
from mcp_persist_middleware.testing import MemoryLog, Shelf
from mcp_persist_middleware.testing.contract.cases.jobs import job
from tests.interaction.test_rerun import left_behind
from tests.support.scripted import Call, Scripted, persisted, serving, until
from tests.support.task_client import TASKS, TaskClient

GATE_SECONDS = 20.0


class Application(Scripted):
    """Tools that a test holds in its hand; `discover` is what it says of itself."""

    def __init__(self) -> None:
        super().__init__(stream=self.stream, json=self.json, quick=self.quick, ask=self.ask)
        self.gate = asyncio.Event()
        self.asked, self.may_say = asyncio.Event(), asyncio.Event()
        self.may_say.set()
        self.discovered: dict[str, Any] = {"capabilities": {"tools": {}}, "supportedVersions": []}
        self.ended: list[Call] = []

    async def _answer(self, call: Call) -> None:
        if call.request.get("method") == "server/discover":
            self.asked.set()
            await self.may_say.wait()
            answer = {"jsonrpc": "2.0", "id": call.request["id"], "result": self.discovered}
            await call.json(200, answer)
        else:
            await super()._answer(call)

    async def opened(self, call: Call) -> None:
        """Wait for the test, unless the client leaves before."""
        watching = asyncio.create_task(call.watch())
        waiting = asyncio.create_task(self.gate.wait())
        try:
            async with asyncio.timeout(GATE_SECONDS):
                await asyncio.wait({watching, waiting}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.ended.append(call)
            watching.cancel()
            waiting.cancel()

    async def stream(self, call: Call) -> None:
        await call.head()
        await call.progress(1, "one of two")
        await self.opened(call)
        await call.result("from a stream")

    async def json(self, call: Call) -> None:
        await self.opened(call)
        result = {"content": [{"type": "text", "text": "from JSON"}], "n": 1.50, "é": "\ud83d"}
        answer = {"jsonrpc": "2.0", "id": call.request["id"], "result": result}
        await call.json(200, answer)

    async def quick(self, call: Call) -> None:
        await call.head()
        await call.result("at once")

    async def ask(self, call: Call) -> None:
        """Ask for two things, and then for one of the same name."""
        params = call.request["params"]
        given, state = params.get("inputResponses"), params.get("requestState")
        await call.head()
        await self.opened(call)
        if given is None:
            asked = {key: {"method": "elicitation/create", "params": {}} for key in ("a", "b")}
            result = {"resultType": "input_required", "inputRequests": asked, "requestState": "1"}
        elif state == "1":
            asked = {"a": {"method": "elicitation/create", "params": {"again": True}}}
            result = {"resultType": "input_required", "inputRequests": asked}
        else:
            result = {"content": [], "given": given, "state": state}
        await call.emit({"id": call.request["id"], "result": result})
        await call.end()


@contextlib.asynccontextmanager
async def served(tmp_path: Path, app: Application, **settings: Any) -> AsyncIterator[TaskClient]:
    url = f"sqlite+aiosqlite:///{tmp_path / 'events.db'}"
    async with persisted(app, url, **{"tasks_after": 0.1, **settings}) as (port, _):
        try:
            yield TaskClient(port)
        finally:
            app.gate.set()


@pytest.mark.parametrize("tool", ["stream", "json"])
async def test_a_long_call_is_a_task_whose_result_is_what_the_call_would_have_returned(
    tmp_path: Path, tool: str
) -> None:
    app = Application()
    async with served(tmp_path, app) as client:
        task = await client.call(tool)
        assert task["resultType"] == "task"
        assert (task["status"], task["ttlMs"]) == ("working", 86_400_000)
        assert task["createdAt"].endswith("Z")
        working = await client.get(task["taskId"])
        assert (working["resultType"], working["status"]) == ("complete", "working")
        assert "result" not in working
        if tool == "stream":
            assert working["statusMessage"] == "one of two"
        app.gate.set()
        done = await client.until(task["taskId"])
        assert (done["status"], len(app.calls)) == ("completed", 1)
        bare = TaskClient(client.port, knows=False)
        assert done["result"] == await bare.call(tool)


async def test_a_call_that_begins_to_answer_while_the_application_is_asked_is_a_task_as_well(
    tmp_path: Path,
) -> None:
    app = Application()
    app.may_say.clear()

    async def late(call: Call) -> None:
        await app.asked.wait()
        await call.head()
        await call.progress(1)
        await asyncio.sleep(0.1)
        app.may_say.set()
        await app.opened(call)
        await call.result()

    app.tools["late"] = late
    async with served(tmp_path, app) as client:
        answer = await client.ask("tools/call", {"name": "late", "arguments": {}})
        assert answer["result"]["resultType"] == "task"
        assert [each["method"] for each in answer["before"]] == ["notifications/progress"]


async def test_the_result_is_byte_for_byte_what_the_application_wrote(tmp_path: Path) -> None:
    app = Application()
    async with served(tmp_path, app) as client:
        task = await client.call("json")
        app.gate.set()
        await client.until(task["taskId"])
        response = await client.post("tasks/get", {"taskId": task["taskId"]})
        text = await response.body()
        response.close()
    # As the application writes it: with its spaces, its 1.5 and its half of a surrogate pair.
    content = [{"type": "text", "text": "from JSON"}]
    wrote = json.dumps({"content": content, "n": 1.50, "é": "\ud83d"}).encode()
    assert b'"result":' + wrote + b"}" in text


async def test_what_is_answered_in_time_or_to_a_client_that_knows_no_tasks_stays_a_call(
    tmp_path: Path,
) -> None:
    app = Application()
    async with served(tmp_path, app, tasks_after=0) as client:
        assert (await client.call("quick"))["content"][0]["text"] == "at once"
        other = TaskClient(client.port, knows=False)
        calling = asyncio.create_task(other.call("stream"))
        await until(lambda: len(app.calls) == 2)
        await asyncio.sleep(0.3)
        app.gate.set()
        assert (await calling)["content"][0]["text"] == "from a stream"
        told = await other.ask("tasks/get", {"taskId": "x" * 32})
        assert (told["status"], told["error"]["code"]) == (400, -32021)


async def test_a_client_that_leaves_after_it_has_its_task_cancels_nothing(tmp_path: Path) -> None:
    app = Application()
    async with served(tmp_path, app, disconnect_grace=0.1) as client:
        task = await client.call("stream")
        assert task["resultType"] == "task"
        await asyncio.sleep(0.5)
        (call,) = app.calls
        assert not call.gone.is_set()
        app.gate.set()
        assert (await client.until(task["taskId"]))["status"] == "completed"


async def test_a_result_is_kept_for_as_long_as_its_task_also_where_nobody_is_named(
    tmp_path: Path,
) -> None:
    app = Application()
    async with served(tmp_path, app, anonymous_ttl=0.1, purge_interval=0.1) as client:
        task = (await client.call("stream"))["taskId"]
        app.gate.set()
        done = await client.until(task)
        await asyncio.sleep(0.6)
        assert await client.get(task) == done
        assert done["status"] == "completed"


async def test_a_task_is_cancelled_and_the_application_hears_of_it(tmp_path: Path) -> None:
    app = Application()
    async with served(tmp_path, app, journal=True) as client:
        for tool in ("stream", "json"):
            task = (await client.call(tool))["taskId"]
            answer = await client.ask("tasks/cancel", {"taskId": task})
            assert answer["result"] == {"resultType": "complete"}
            found = await client.get(task)
            assert found["status"] == "cancelled"
            assert not {"result", "error"} & found.keys()
            again = await client.ask("tasks/cancel", {"taskId": task})
            assert again["result"] == {"resultType": "complete"}
        await until(lambda: len(app.ended) == 2)
        assert not app.gate.is_set()
    with contextlib.closing(sqlite3.connect(tmp_path / "events.db")) as file:
        calls = file.execute("SELECT outcome FROM mcp_journal WHERE method = 'tools/call'")
        assert calls.fetchall() == [("cancelled",)] * 2


async def test_a_task_that_has_ended_keeps_its_result_whoever_cancels_it(tmp_path: Path) -> None:
    app = Application()
    app.gate.set()
    async with served(tmp_path, app, tasks_after=0) as client:
        app.tools["late"] = late
        task = (await client.call("late"))["taskId"]
        done = await client.until(task)
        answer = await client.ask("tasks/cancel", {"taskId": task})
        assert answer["result"] == {"resultType": "complete"}
        assert await client.get(task) == done
        assert done["status"] == "completed"


async def late(call: Call) -> None:
    await asyncio.sleep(0.2)
    await call.head()
    await call.result()


async def test_an_id_that_is_made_up_of_another_caller_or_expired_is_unknown(
    tmp_path: Path,
) -> None:
    app = Application()
    async with served(tmp_path, app, tasks_ttl=1.5) as client:
        ann = TaskClient(client.port, extra={"authorization": "Bearer ann"})
        task = (await ann.call("stream"))["taskId"]
        ben = TaskClient(client.port, extra={"authorization": "Bearer ben"})
        other = TaskClient(client.port, path="/other", extra=ann.extra)
        answers = [
            await ben.ask("tasks/get", {"taskId": task}),
            await other.ask("tasks/get", {"taskId": task}),
            await client.ask("tasks/get", {"taskId": task}),
            await ann.ask("tasks/get", {"taskId": "x" * 32}),
            await ann.ask("tasks/get", {"taskId": "made up"}),
            await ben.ask("tasks/cancel", {"taskId": task}),
            await ben.ask("tasks/update", {"taskId": task, "inputResponses": {}}),
        ]
        assert (await ann.get(task))["status"] == "working"
        app.gate.set()
        await asyncio.sleep(1.6)
        answers.append(await ann.ask("tasks/get", {"taskId": task}))
    told = {json.dumps({**answer, "id": 0}) for answer in answers}
    assert len(told) == 1, told
    assert (answers[0]["status"], answers[0]["error"]["code"]) == (400, -32602)


async def test_headers_that_say_something_else_than_the_body_are_refused(tmp_path: Path) -> None:
    app = Application()
    async with served(tmp_path, app) as client:
        task = (await client.call("stream"))["taskId"]
        asked = {"taskId": task}
        wrong: list[dict[str, str | None]] = [
            {"mcp_method": "tasks/cancel"},
            {"mcp_method": None},
            {"mcp_name": "x" * 32},
            {"mcp_name": "=?base64?!?="},
        ]
        for headers in wrong:
            told = await client.ask("tasks/get", asked, **headers)
            assert (told["status"], told["error"]["code"]) == (400, -32020), headers
        # Clients that are there leave it out.
        assert "result" in await client.ask("tasks/get", asked, mcp_name=None)


async def test_an_application_that_refuses_the_caller_says_so_itself(tmp_path: Path) -> None:
    app = Application()
    async with served(tmp_path, app) as client:
        task = (await client.call("stream"))["taskId"]
        app.allow = lambda headers: "authorization" in headers
        response = await client.post("tasks/get", {"taskId": task})
        assert (response.status, await response.body()) == (401, b"who are you?")
        response.close()


async def test_discover_says_that_there_are_tasks_and_an_application_that_has_them_is_left_alone(
    tmp_path: Path,
) -> None:
    app = Application()
    async with served(tmp_path, app) as client:
        found = await client.ask("server/discover", {})
        assert found["result"]["capabilities"] == {"tools": {}, "extensions": {TASKS: {}}}
        app.discovered["capabilities"] = {"extensions": {TASKS: {"its": "own"}}}
        found = await client.ask("server/discover", {})
        assert found["result"] == app.discovered
        calling = asyncio.create_task(client.call("stream"))
        await until(lambda: app.calls)
        await asyncio.sleep(0.3)
        app.gate.set()
        assert (await calling)["content"][0]["text"] == "from a stream"
        # The application's own answer, which is the one of this script to everything else.
        assert (await client.ask("tasks/get", {"taskId": "x" * 32}))["status"] == 202


async def test_a_task_is_answered_with_what_lets_a_browser_read_it(tmp_path: Path) -> None:
    app = Application()
    inner = CORSMiddleware(app, allow_origins=["https://a.example"])
    url = f"sqlite+aiosqlite:///{tmp_path / 'events.db'}"
    async with persisted(inner, url, tasks_after=0.1) as (port, _):
        client = TaskClient(port, extra={"origin": "https://a.example"})
        response = await client.post("tools/call", {"name": "json", "arguments": {}})
        task = json.loads(await response.body())["result"]["taskId"]
        answers = [response, await client.post("tasks/get", {"taskId": task})]
        answers.append(await client.post("tasks/get", {"taskId": "x" * 32}))
        for each in answers:
            assert each.headers["access-control-allow-origin"] == "https://a.example"
            each.close()
        app.gate.set()


async def test_what_the_application_asks_in_a_task_is_answered_by_update(tmp_path: Path) -> None:
    app = Application()
    async with served(tmp_path, app) as client:
        task = (await client.call("ask"))["taskId"]
        app.gate.set()
        found = await client.until(task, "input_required")
        assert set(found["inputRequests"]) == {"a", "b"}
        assert "requestState" not in found
        ack = await client.ask("tasks/update", {"taskId": task, "inputResponses": {"a": 1, "x": 2}})
        assert ack["result"] == {"resultType": "complete"}
        found = await client.get(task)
        assert (found["status"], set(found["inputRequests"])) == ("input_required", {"b"})
        await client.ask("tasks/update", {"taskId": task, "inputResponses": {"a": 9, "b": 3}})
        found = await client.until(task, "input_required")
        # No key names two questions in the life of a task.
        (name,) = found["inputRequests"]
        assert name not in ("a", "b")
        await client.ask("tasks/update", {"taskId": task, "inputResponses": {"a": 0, name: 4}})
        done = await client.until(task)
        assert done["result"] == {"content": [], "given": {"a": 4}, "state": None}
        first, second, third = app.calls
        assert "inputResponses" not in first.request["params"]
        assert second.request["params"]["inputResponses"] == {"a": 1, "b": 3}
        assert second.request["params"]["requestState"] == "1"
        assert third.request["id"] == first.request["id"]


async def test_a_task_whose_client_is_asked_something_can_be_cancelled(tmp_path: Path) -> None:
    app = Application()
    async with served(tmp_path, app) as client:
        task = (await client.call("ask"))["taskId"]
        app.gate.set()
        await client.until(task, "input_required")
        await client.ask("tasks/cancel", {"taskId": task})
        assert (await client.get(task))["status"] == "cancelled"
        await client.ask("tasks/update", {"taskId": task, "inputResponses": {"a": 1, "b": 3}})
        assert (await client.get(task))["status"] == "cancelled"
        assert len(app.calls) == 1


async def test_of_too_many_tasks_the_next_call_stays_a_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, create, made = Application(), SqlJobs.create, list[JobCreation]()

    async def noted(jobs: SqlJobs, *asked: Any) -> JobCreation:
        made.append(await create(jobs, *asked))
        return made[-1]

    monkeypatch.setattr(SqlJobs, "create", noted)
    async with served(tmp_path, app, max_jobs=1) as client:
        task = (await client.call("stream"))["taskId"]
        calling = asyncio.create_task(client.call("stream"))
        await until(lambda: made == [JobCreation.CREATED, JobCreation.FULL])
        app.gate.set()
        assert (await calling)["content"][0]["text"] == "from a stream"
        assert (await client.until(task))["status"] == "completed"
        app.gate.clear()
        # What has ended makes room.
        assert (await client.call("stream"))["resultType"] == "task"
        assert (await client.ask("tasks/get", {"taskId": task}))["error"]["code"] == -32602


@pytest.mark.parametrize("off", [{"tasks": False}, {"modern_streams": "pass"}])
async def test_where_they_are_turned_off_there_are_no_tasks(
    tmp_path: Path, off: dict[str, Any]
) -> None:
    app = Application()
    async with served(tmp_path, app, tasks_after=0, **off) as client:
        assert (await client.ask("server/discover", {}))["result"] == app.discovered
        calling = asyncio.create_task(client.call("stream"))
        await until(lambda: app.calls)
        await asyncio.sleep(0.2)
        app.gate.set()
        assert "content" in await calling
        assert (await client.ask("tasks/get", {"taskId": "x" * 32}))["status"] == 202


async def test_only_the_tools_that_are_named_become_tasks(tmp_path: Path) -> None:
    app = Application()
    asked: list[Any] = []

    def tasks_for(tool: str, arguments: dict[str, Any]) -> bool:
        asked.append((tool, arguments))
        return bool(arguments.get("long"))

    async with served(tmp_path, app, tasks_for=tasks_for) as client:
        assert (await client.call("stream", long=True))["resultType"] == "task"
        calling = asyncio.create_task(client.call("stream", long=False))
        await until(lambda: len(app.calls) == 2)
        await asyncio.sleep(0.3)
        app.gate.set()
        assert "content" in await calling
    assert asked == [("stream", {"long": True}), ("stream", {"long": False})]


class AwayLog(MemoryLog):
    """A store that does not say anything of its jobs, or of its streams, while it is `away`."""

    away = ""

    async def find(self, stream: bytes) -> StreamRecord | None:
        self.must_be_here("streams")
        return await super().find(stream)

    @functools.cached_property
    def jobs(self) -> "AwayJobs":
        return AwayJobs(self)

    def must_be_here(self, what: str) -> None:
        if type(self).away == what:
            raise StoreError(url="x", reason="away")


class AwayJobs(RecordJobs):
    """`until` is waited for before one is created."""

    until: Callable[[], Awaitable[object]] = functools.partial(asyncio.sleep, 0)

    def __init__(self, log: AwayLog) -> None:
        super().__init__(log.records, log.find)
        self.log = log

    async def create(self, job: JobRecord, most: int, most_of_one: int) -> JobCreation:
        self.log.must_be_here("jobs")
        await type(self).until()
        return await super().create(job, most, most_of_one)

    async def find(self, job: bytes) -> JobRecord | None:
        self.log.must_be_here("jobs")
        return await super().find(job)


@contextlib.asynccontextmanager
async def served_on(log: Any, app: Application, **settings: Any) -> AsyncIterator[TaskClient]:
    middleware = PersistMiddleware(app, log=log, tasks_after=0.1, drain_seconds=0.1, **settings)
    async with serving(middleware) as port:
        try:
            yield TaskClient(port)
        finally:
            app.gate.set()


@pytest.mark.parametrize("tool", ["stream", "json"])
async def test_where_its_task_cannot_be_stored_a_call_stays_a_call(
    monkeypatch: pytest.MonkeyPatch, tool: str
) -> None:
    app, shelf = Application(), Shelf()
    async with served_on(lambda _: AwayLog(shelf), app) as client:
        monkeypatch.setattr(AwayLog, "away", "jobs")
        calling = asyncio.create_task(client.call(tool))
        await until(lambda: app.calls)
        await asyncio.sleep(0.4)
        app.gate.set()
        assert (await calling)["content"][0]["text"].startswith("from")


async def test_a_poll_while_the_store_is_away_says_what_is_known_and_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    app, shelf = Application(), Shelf()
    async with served_on(lambda _: AwayLog(shelf), app, store_timeout=0.3) as client:
        task = (await client.call("stream"))["taskId"]
        for away, status in (("streams", 400), ("jobs", 503)):
            monkeypatch.setattr(AwayLog, "away", away)
            # It runs here: that needs no store.
            assert (await client.get(task))["status"] == "working"
            other = TaskClient(client.port, extra={"authorization": "Bearer ben"})
            told = await other.ask("tasks/get", {"taskId": task})
            assert (told["status"], "result" in told) == (status, False)
        for method in ("tasks/cancel", "tasks/update"):
            asked = {"taskId": task, "inputResponses": {}}
            assert (await client.ask(method, asked))["status"] == 503
        app.gate.set()
        await until(lambda: app.ended)
        async with asyncio.timeout(5):
            while (told := await client.ask("tasks/get", {"taskId": task}))["status"] != 503:
                await asyncio.sleep(0.02)
        monkeypatch.setattr(AwayLog, "away", "")
        assert (await client.until(task))["status"] == "completed"


async def test_a_call_that_ends_while_its_task_is_committed_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    app, shelf = Application(), Shelf()

    async def over() -> None:
        app.gate.set()
        await until(lambda: app.ended)
        await asyncio.sleep(0.2)

    monkeypatch.setattr(AwayJobs, "until", over)
    middleware = PersistMiddleware(app, log=lambda _: AwayLog(shelf), tasks_after=0.1)
    async with serving(middleware) as port:
        client = TaskClient(port)
        task = (await client.call("stream"))["taskId"]
        assert (await client.get(task))["status"] == "completed"
        context = await access_to(middleware.persistence).context()
        assert not context.outliving


async def test_on_a_store_without_jobs_there_are_no_tasks_and_that_is_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)

    class Bare(MemoryLog):
        jobs = None  # type: ignore[assignment]

    app, shelf = Application(), Shelf()
    async with served_on(lambda _: Bare(shelf), app) as client:
        found = await client.ask("server/discover", {})
        assert found["result"] == app.discovered
        calling = asyncio.create_task(client.call("stream"))
        await until(lambda: app.calls)
        await asyncio.sleep(0.3)
        app.gate.set()
        assert "content" in await calling
    assert sum("keeps no jobs" in record.getMessage() for record in caplog.records) == 1


async def test_a_task_that_has_just_gone_on_has_not_failed_before_its_stream_is_there(
    tmp_path: Path,
) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path / 'events.db'}"
    async with persisted(Application(), url) as (port, persistence):
        context = await access_to(persistence).context()
        log, client, mine = context.log, TaskClient(port), context.member.name
        assert log.jobs is not None
        now, nobody = log.now(), Owner("default", "/mcp", "", "")
        # It began long ago, and was gone on with by a worker that lives.
        for age, status in ((0.0, "working"), (600.0, "failed")):
            told = {"created_at": now - 900, "updated_at": now - age, "worker": mine}
            made = job(log, owner=nobody, **told)
            await log.jobs.create(made, 10, 10)
            assert (await client.get(job_id.name(made.id)))["status"] == status


@pytest.mark.parametrize("wanted", [True, False])
async def test_a_task_that_its_worker_has_left_runs_again_where_the_setting_says_so(
    tmp_path: Path, *, wanted: bool
) -> None:
    async def work(call: Call) -> None:
        await call.head()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.3):
                # Who hears that its client has left ends.
                await call.watch()
                return
        await call.result("again")

    app, (write, _) = Application(), left_behind()
    app.tools["work"] = work
    url = f"sqlite+aiosqlite:///{tmp_path / 'events.db'}"
    # Longer than its grace without a reader the call runs only as a task.
    settings: dict[str, Any] = {"rerun": lambda *_: wanted, "disconnect_grace": 0.05}
    async with persisted(app, url, **settings) as (port, persistence):
        log, client = (await access_to(persistence).context()).log, TaskClient(port)
        await log.append([write])
        assert write.create is not None
        assert log.jobs is not None
        made = job(log, write.create, owner=write.create.owner, tool="work", request_id="7")
        await log.jobs.create(made, 10, 10)
        done = await client.until(job_id.name(made.id))
        if wanted:
            assert done["result"]["content"][0]["text"] == "again"
        else:
            assert "is gone" in done["error"]["message"]
        assert len(app.calls) == wanted
