"""Each job that ends is counted once, by its face and by how."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from mcp_persist_middleware import PersistMiddleware
from mcp_persist_middleware.model import JobFace
from mcp_persist_middleware.persistence import access_to
from mcp_persist_middleware.testing import MemoryLog, Shelf
from mcp_persist_middleware.testing.contract.cases.jobs import job
from tests.faults.workers import Store
from tests.guarantees.test_g10_sessions import two_workers
from tests.interaction.test_hand_back import Held, Listing, answer_of, text_of
from tests.interaction.test_rerun import left_behind
from tests.interaction.test_tasks import Application, served
from tests.peers.killed_tasks_app import Server
from tests.support.measured import Telemetry
from tests.support.processes import ServerProcess, running
from tests.support.scripted import Call, Scripted, persisted, serving, until
from tests.support.session import MODERN, RawSession
from tests.support.task_client import TaskClient

_ANN = {"authorization": "Bearer ann"}


class Ends:
    """What was counted since."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry
        self._before = self._now()

    def _now(self) -> dict[tuple[Any, Any], Any]:
        points = self._telemetry.values("mcp_persist.jobs.ended")
        return {(p.attributes["face"], p.attributes["outcome"]): p.value for p in points}

    def __call__(self) -> dict[tuple[Any, Any], Any]:
        now = self._now().items()
        return {key: count for key, v in now if (count := v - self._before.get(key, 0))}


@pytest.fixture
def file(tmp_path: Path) -> Store:
    """What the store says."""
    return Store(tmp_path / "events.db")


@pytest.fixture
def ends(telemetry: Telemetry) -> Ends:
    return Ends(telemetry)


async def test_the_ends_of_tasks_are_told_apart(tmp_path: Path, ends: Ends) -> None:
    app = Application()

    async def error(call: Call) -> None:
        await call.head()
        await app.opened(call)
        await call.emit({"id": call.request["id"], "error": {"code": -32603, "message": "no"}})
        await call.end()

    async def crash(call: Call) -> None:
        await call.head()
        await app.opened(call)
        raise RuntimeError("the tool broke")

    app.tools |= {"error": error, "crash": crash}
    async with served(tmp_path, app) as client:
        cancelled = (await client.call("stream"))["taskId"]
        await client.ask("tasks/cancel", {"taskId": cancelled})
        await client.ask("tasks/cancel", {"taskId": cancelled})
        await until(lambda: app.ended)
        failed = [(await client.call(tool))["taskId"] for tool in ("error", "crash")]
        completed = (await client.call("json"))["taskId"]
        app.gate.set()
        for each in (*failed, completed):
            await client.until(each)
    assert ends() == {
        ("extension", "cancelled"): 1,
        ("extension", "application_error"): 2,
        ("extension", "completed"): 1,
    }


async def test_a_task_that_asks_its_client_has_not_ended(tmp_path: Path, ends: Ends) -> None:
    app = Application()
    async with served(tmp_path, app) as client:
        task, other = [(await client.call("ask"))["taskId"] for _ in range(2)]
        app.gate.set()
        for each in (task, other):
            await client.until(each, "input_required")
        assert ends() == {}
        await client.ask("tasks/cancel", {"taskId": other})
        assert ends() == {("extension", "cancelled"): 1}
        given = {"taskId": task, "inputResponses": {"a": 1, "b": 3}}
        await client.ask("tasks/update", given)
        (name,) = (await client.until(task, "input_required"))["inputRequests"]
        await client.ask("tasks/update", {"taskId": task, "inputResponses": {name: 4}})
        await client.until(task)
    assert ends() == {("extension", "cancelled"): 1, ("extension", "completed"): 1}


async def test_a_task_that_runs_when_its_time_is_over_has_expired(
    tmp_path: Path, ends: Ends
) -> None:
    async def leaves(call: Call) -> None:
        await call.head()
        await call.watch()

    app = Application()
    app.tools["leaves"] = leaves
    async with served(tmp_path, app, tasks_after=0, tasks_ttl=1) as client:
        await client.call("leaves")
        await until(lambda: bool(ends()))
    assert ends() == {("extension", "expired"): 1}


async def test_a_task_whose_worker_stops_is_told_as_that(tmp_path: Path, ends: Ends) -> None:
    async def endless(call: Call) -> None:
        await call.head()
        await asyncio.Event().wait()

    app = Application()
    app.tools["endless"] = endless
    async with served(tmp_path, app, drain_seconds=0.1) as client:
        await client.call("endless")
    assert ends() == {("extension", "worker_stopped"): 1}


class Refusing(MemoryLog):
    """A store that can be away."""

    is_away = False

    async def append(self, batch: Any) -> Any:
        if type(self).is_away:
            raise ConnectionError
        return await super().append(batch)


async def test_a_task_that_the_store_takes_along_is_told_as_that(
    monkeypatch: pytest.MonkeyPatch, ends: Ends
) -> None:
    async def talks(call: Call) -> None:
        await call.head()
        with contextlib.suppress(asyncio.CancelledError):
            while not call.gone.is_set():
                await call.progress(1)
                await asyncio.sleep(0.05)

    shelf, policy = Shelf(), "refuse"
    given: dict[str, Any] = {"store_timeout": 0.3, "on_store_failure": policy}
    app = Application()
    app.tools["talks"] = talks
    middleware = PersistMiddleware(app, log=lambda _: Refusing(shelf), tasks_after=0.1, **given)
    async with serving(middleware) as port:
        await TaskClient(port).call("talks")
        monkeypatch.setattr(Refusing, "is_away", True)
        await until(lambda: bool(ends()))
        monkeypatch.setattr(Refusing, "is_away", False)
    assert ends() == {("extension", "store"): 1}


@pytest.mark.parametrize("face", list(JobFace))
async def test_a_job_whose_worker_died_is_counted_by_whoever_ends_it(
    tmp_store: str, ends: Ends, telemetry: Telemetry, face: JobFace
) -> None:
    write, _ = left_behind()
    record = write.create
    assert record is not None
    async with persisted(Scripted(), tmp_store, purge_interval=3600) as (_, persistence):
        context = await access_to(persistence).context()
        assert context.log.jobs is not None
        await context.log.append([write])
        made = job(context.log, record, owner=record.owner, face=face)
        await context.log.jobs.create(made, 10, 10)
        left = await context.takeover.left(record)
        assert left is not None
        # Two that look at the same time: one of them ends it.
        await asyncio.gather(*(context.takeover.end(record, left) for _ in range(2)))
        await until(lambda: bool(ends()))
    assert ends() == {(str(face), "worker_died"): 1}
    (span,) = [span for span in telemetry.spans if span.name == "mcp_persist.interrupted"]
    assert span.attributes["mcp.method.name"] == "tools/call"
    assert span.attributes["gen_ai.tool.name"] == "work"


@pytest.mark.parametrize("tool", ["stream", "talks"])
async def test_a_task_that_another_worker_cancels_is_counted_there_alone(
    tmp_store: str, ends: Ends, telemetry: Telemetry, tool: str
) -> None:
    async def talks(call: Call) -> None:
        await call.head()
        ending = asyncio.create_task(app.opened(call))
        while not ending.done():
            await call.progress(1)
            await asyncio.sleep(0.02)

    app = Application()
    app.tools["talks"] = talks
    async with two_workers(tmp_store, app, tasks_after=0.1) as (ports, _):
        first, second = map(TaskClient, ports)
        task = (await first.call(tool))["taskId"]
        await second.ask("tasks/cancel", {"taskId": task})
        await until(lambda: bool(app.ended))
        assert (await first.get(task))["status"] == "cancelled"
    assert ends() == {("extension", "cancelled"): 1}
    # It is no call that goes on and is not kept.
    assert telemetry.counted("streams.interrupted") == 1
    assert telemetry.counted("streams.degraded") == 0


@pytest.mark.parametrize(
    ("settings", "headers", "face"),
    [
        ({"hand_back": 0.3}, {}, "hand_back"),
        ({"idempotency": True}, {"idempotency-key": "k"}, "idempotency"),
    ],
)
async def test_what_is_asked_for_by_its_arguments_or_a_key_is_counted_too(
    tmp_store: str, ends: Ends, settings: dict[str, Any], headers: dict[str, str], face: str
) -> None:
    app = Listing(slow=(tool := Held()))
    async with persisted(app, tmp_store, **settings) as (port, _):
        session = await RawSession.open(port, extra=_ANN | headers)
        calling = asyncio.create_task(told(session))
        await until(lambda: bool(tool.runs))
        if face == "hand_back":
            assert "still running" in await calling
        assert ends() == {}
        tool.done.set()
        assert await calling if face == "idempotency" else await told(session) == "run 1"
        assert await told(session) == "run 1"
    assert ends() == {(face, "completed"): 1}


async def told(session: RawSession) -> str:
    return await text_of(await session.call("slow"))


@asynccontextmanager
async def beside_one_that_dies(
    tmp_path: Path, store: str, instant: str
) -> AsyncIterator[tuple[ServerProcess, int]]:
    """A worker that is killed at this instant, and the port of another one."""
    environ = {"KILLED_DIRECTORY": str(tmp_path), "KILLED_URL": store}
    environ |= {"MCP_PERSIST_IDEMPOTENCY": "true", "MCP_PERSIST_TASKS_AFTER": "0.1"}
    app = "tests.peers.killed_tasks_app:app()"
    server = ServerProcess(app, tmp_path / "server.log", environ=environ)
    here = Server(tmp_path / "runs")
    async with running(server), persisted(here, store, idempotency=True) as (port, _):
        (tmp_path / "armed").write_text(instant)
        yield server, port


_WORK: dict[str, Any] = {"name": "it", "seconds": 0.6, "as_json": False}


@pytest.mark.parametrize("comes_back", [True, False])
async def test_a_keyed_call_whose_worker_died_before_it_began_has_failed_once(
    tmp_path: Path, tmp_store: str, ends: Ends, comes_back: bool
) -> None:
    async with beside_one_that_dies(tmp_path, tmp_store, "created") as (server, port):
        extra = _ANN | {"idempotency-key": "k"}
        with pytest.raises((OSError, asyncio.IncompleteReadError)):
            await RawSession(server.port, MODERN, extra=extra).call("work", **_WORK)
        if not comes_back:
            await until(lambda: bool(ends()))
        for _ in range(2):
            answer = await answer_of(
                await RawSession(port, MODERN, extra=extra).call("work", **_WORK)
            )
            assert "worker that ran this request is gone" in answer["error"]["message"]
        await until(lambda: bool(ends()))
    assert ends() == {("idempotency", "worker_died"): 1}
    assert not (tmp_path / "runs").exists()


async def test_a_task_whose_worker_died_before_it_went_on_has_failed_once(
    tmp_path: Path, tmp_store: str, ends: Ends
) -> None:
    async with beside_one_that_dies(tmp_path, tmp_store, "moved") as (server, port):
        client = TaskClient(server.port, extra=_ANN)
        task = (await client.call("ask", **_WORK))["taskId"]
        await client.until(task, "input_required")
        given = {"taskId": task, "inputResponses": {"who": {"action": "accept"}}}
        with pytest.raises((OSError, asyncio.IncompleteReadError)):
            await client.ask("tasks/update", given)
        found = await TaskClient(port, extra=_ANN).until(task)
        assert "worker that ran this request is gone" in found["error"]["message"]
        await until(lambda: bool(ends()))
    assert ends() == {("extension", "worker_died"): 1}
    assert not (tmp_path / "runs").exists()


async def test_a_task_that_waits_for_its_client_when_its_time_is_over_has_expired(
    tmp_path: Path, ends: Ends, file: Store
) -> None:
    app = Application()
    async with served(tmp_path, app, tasks_after=0, tasks_ttl=1, purge_interval=0.1) as client:
        task = (await client.call("ask"))["taskId"]
        app.gate.set()
        await client.until(task, "input_required")
        await until(lambda: bool(ends()))
        await until(lambda: file.rows("SELECT kind FROM mcp_deletion WHERE kind = 'jobs'"))
    assert ends() == {("extension", "expired"): 1}
    told = file.rows("SELECT reason, namespace, number FROM mcp_deletion WHERE kind = 'jobs'")
    assert told == [("age", "default", 1)]
