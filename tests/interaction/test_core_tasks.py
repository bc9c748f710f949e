"""Tasks of 2025-11-25 for a server that never heard of them, by a small conforming client."""

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import pytest
from mcp.server.mcpserver import MCPServer

from mcp_persist_middleware.asgi.asked import Asked
from mcp_persist_middleware.asgi.body import Body
from mcp_persist_middleware.persistence import access_to
from mcp_persist_middleware.protocol.classify import Request, RequestKind
from mcp_persist_middleware.streams.ownership import Caller
from mcp_persist_middleware.tasks import core_result
from tests.support.scripted import Call, Scripted, persisted, until
from tests.support.session import RawSession
from tests.support.sse_client import Frame, Response

pytestmark = pytest.mark.timeout(60)

RELATED = "io.modelcontextprotocol/related-task"
CAPABILITY = {"list": {}, "cancel": {}, "requests": {"tools": {"call": {}}}}


class Server(Scripted):
    """Its tools: `short` answers at once, `long` when it is told to, `ask` asks its client, `fail`
    with an error."""

    capabilities: ClassVar[dict[str, Any]] = {"tools": {}}
    tool: ClassVar[dict[str, Any]] = {"name": "long", "inputSchema": {"type": "object"}}

    def __init__(self) -> None:
        super().__init__(short=self._short, long=self._long, ask=self._ask, fail=self._fail)
        self.go_on = asyncio.Event()
        self.replies: list[Any] = []
        self.bodies: list[Any] = []

    async def _answer(self, call: Call) -> None:
        self.bodies.append(call.request)
        match call.request:
            case {"method": "initialize", "id": number, "params": {"protocolVersion": version}}:
                session = b"s%d" % len(self.requests)
                await call.head((b"mcp-session-id", session))
                told = {"protocolVersion": version, "capabilities": self.capabilities}
                await call.emit({"id": number, "result": {**told, "serverInfo": {}}})
                await call.end()
            case {"method": "tools/list", "id": number}:
                result = {"tools": [self.tool]}
                await call.json(200, {"jsonrpc": "2.0", "id": number, "result": result})
            case {"result": _}:
                self.replies.append(call.request)
                await call.json(202, None)
            case {"method": str(method), "id": number} if method.startswith("tasks/"):
                error = {"code": -32601, "message": "no such method"}
                await call.json(200, {"jsonrpc": "2.0", "id": number, "error": error})
            case _:
                await super()._answer(call)

    async def _short(self, call: Call) -> None:
        content = {"content": [{"type": "text", "text": "done"}]}
        await call.json(200, {"jsonrpc": "2.0", "id": call.request["id"], "result": content})

    async def _long(self, call: Call) -> None:
        await call.head()
        await call.progress(1, "on its way")
        await self.go_on.wait()
        await call.progress(2, "nearly there")
        await call.result("done")

    async def _ask(self, call: Call) -> None:
        await call.head()
        await call.emit({"id": 7, "method": "elicitation/create", "params": {"message": "who?"}})
        await until(lambda: self.replies)
        await call.result(self.replies[0]["result"]["content"]["name"])

    async def _fail(self, call: Call) -> None:
        error = {"code": -32050, "message": "no"}
        await call.json(200, {"jsonrpc": "2.0", "id": call.request["id"], "error": error})


async def text(response: Response) -> Any:
    """The one message of an answer, whichever way it comes."""
    try:
        if response.is_stream:
            return (await response.take(1))[0].message
        return json.loads(await response.body())
    finally:
        response.close()


class TaskSession(RawSession):
    """A session of a client that knows tasks."""

    async def ask(self, method: str, **params: Any) -> Any:
        return await text(await self.post(method, params))

    async def begin(self, tool: str, **more: Any) -> dict[str, Any]:
        task = {"task": {"ttl": 60_000}, "_meta": {"progressToken": "p"}, "arguments": {}}
        answer = await self.ask("tools/call", name=tool, **{**task, **more})
        return answer["result"]["task"]

    async def status(self, task: str) -> Any:
        return (await self.ask("tasks/get", taskId=task))["result"]["status"]

    async def reached(self, task: str, status: str) -> None:
        async with asyncio.timeout(10):
            while await self.status(task) != status:
                await asyncio.sleep(0.02)

    async def reply(self, number: Any, **result: Any) -> None:
        body = {"jsonrpc": "2.0", "id": number, "result": result}
        response = await self._send(body, self.headers())
        assert response.status == 202
        response.close()


@asynccontextmanager
async def served(url: str, app: Any = None, **settings: Any) -> AsyncIterator[tuple[Any, int]]:
    app = app or Server()
    async with persisted(app, url, **settings) as (port, _):
        yield app, port


async def test_a_call_is_a_task_from_its_beginning_to_its_result(tmp_store: str) -> None:
    async with served(tmp_store) as (app, port):
        session = await TaskSession.open(port)
        task = await session.begin("long")
        assert task.items() >= {"status": "working", "ttl": 3_600_000}.items()
        assert set(task) == {
            *("taskId", "status", "createdAt", "lastUpdatedAt", "ttl", "pollInterval"),
        }
        call = next(body for body in app.bodies if body["method"] == "tools/call")
        assert "task" not in call["params"]
        name = task["taskId"]
        async with asyncio.timeout(10):
            while True:
                found = (await session.ask("tasks/get", taskId=name))["result"]
                if found.get("statusMessage") == "on its way":
                    break
        assert found["status"] == "working"
        response = await session.post("tasks/result", {"taskId": name}, request_id="r")
        app.go_on.set()
        frames = [frame async for frame in response.frames() if frame.data]
        progress, answer = (frame.message for frame in frames)
        key = {RELATED: {"taskId": name}}
        assert progress["params"]["progressToken"] == "p"
        assert (progress["params"]["progress"], progress["params"]["_meta"]) == (2, key)
        content = [{"type": "text", "text": "done"}]
        expected = {"jsonrpc": "2.0", "id": "r", "result": {"content": content, "_meta": key}}
        assert answer == expected
        assert await session.status(name) == "completed"
        # It may be asked for again, and then comes at once.
        assert (await session.ask("tasks/result", taskId=name))["result"] == answer["result"]
        listed = (await session.ask("tasks/list"))["result"]["tasks"]
        assert [(each["taskId"], each["status"]) for each in listed] == [(name, "completed")]


async def test_a_result_that_was_cut_is_gone_on_with_or_asked_for_anew(tmp_store: str) -> None:
    async with served(tmp_store) as (app, port):
        session = await TaskSession.open(port)
        name = (await session.begin("long"))["taskId"]
        response = await session.post("tasks/result", {"taskId": name})
        cursor: str | None = None
        async for frame in response.frames():
            cursor = frame.id
            break
        assert cursor is not None
        response.reset()
        again, anew = (
            await session.get(cursor),
            await session.post("tasks/result", {"taskId": name}),
        )
        app.go_on.set()
        for each in (again, anew):
            frames: list[Frame] = [frame async for frame in each.frames() if frame.data]
            assert frames[-1].message["result"]["content"][0]["text"] == "done"
        assert len(app.calls) == 1


async def test_what_a_task_asks_comes_with_its_key_and_once_it_is_answered_not_again(
    tmp_store: str,
) -> None:
    async with served(tmp_store) as (app, port):
        session = await TaskSession.open(port)
        name = (await session.begin("ask"))["taskId"]
        await session.reached(name, "input_required")
        response = await session.post("tasks/result", {"taskId": name})
        (asked,) = await response.take(1)
        assert asked.message["method"] == "elicitation/create"
        assert asked.message["params"]["_meta"] == {RELATED: {"taskId": name}}
        await session.reply(asked.message["id"], action="accept", content={"name": "ann"})
        (answer,) = await response.take(1)
        assert answer.message["result"]["content"][0]["text"] == "ann"
        await session.reached(name, "completed")
        frames = await (await session.post("tasks/result", {"taskId": name})).take(5)
        assert [frame.is_response for frame in frames] == [True]
        assert [reply["id"] for reply in app.replies] == [7]


async def test_a_task_is_cancelled_once_and_an_error_of_the_call_is_its_failure(
    tmp_store: str,
) -> None:
    async with served(tmp_store) as (app, port):
        session = await TaskSession.open(port)
        name = (await session.begin("long"))["taskId"]
        await until(lambda: app.calls)
        cancelled = (await session.ask("tasks/cancel", taskId=name))["result"]
        assert (cancelled["taskId"], cancelled["status"]) == (name, "cancelled")
        refused = (await session.ask("tasks/cancel", taskId=name))["error"]
        assert (refused["code"], "cancelled" in refused["message"]) == (-32602, True)
        assert "error" in await session.ask("tasks/result", taskId=name)
        name = (await session.begin("fail"))["taskId"]
        await session.reached(name, "failed")
        assert (await session.ask("tasks/result", taskId=name))["error"]["code"] == -32050
        # One that has ended before anybody could ask is a task all the same.
        name = (await session.begin("short"))["taskId"]
        await session.reached(name, "completed")


async def test_nobody_elses_task_is_seen_and_no_id_says_that_there_is_one(tmp_store: str) -> None:
    async with served(tmp_store) as (_, port):
        mine, other = await TaskSession.open(port), await TaskSession.open(port)
        name = (await mine.begin("short"))["taskId"]
        for method in ("tasks/get", "tasks/result", "tasks/cancel"):
            answers = [
                await other.ask(method, taskId=each) for each in (name, "A" * 32, "what", None)
            ]
            assert {json.dumps(answer["error"]) for answer in answers} == {
                '{"code": -32602, "message": "Task not found"}'
            }
        assert (await other.ask("tasks/list"))["result"] == {"tasks": []}


async def test_lists_come_in_pages(tmp_store: str) -> None:
    async with served(tmp_store) as (_, port):
        session = await TaskSession.open(port)
        names = [(await session.begin("short"))["taskId"] for _ in range(25)]
        first = (await session.ask("tasks/list"))["result"]
        rest = (await session.ask("tasks/list", cursor=first["nextCursor"]))["result"]
        assert "nextCursor" not in rest
        found = [each["taskId"] for each in (*first["tasks"], *rest["tasks"])]
        assert sorted(found) == sorted(names)
        assert (await session.ask("tasks/list", cursor="x"))["error"]["code"] == -32602


async def test_it_is_said_to_clients_of_that_revision_and_of_the_tools_that_may(
    tmp_store: str,
) -> None:
    async with served(tmp_store, tasks_for=["long"]) as (app, port):
        for version, says in (("2025-11-25", True), ("2025-06-18", False)):
            session = TaskSession(port, version)
            params = {"protocolVersion": version, "capabilities": {}, "clientInfo": {}}
            response = await session.post("initialize", params)
            session.session_id = response.headers["mcp-session-id"]
            greeting = await text(response)
            told = greeting["result"]["capabilities"]
            assert told == (app.capabilities | ({"tasks": CAPABILITY} if says else {}))
            (tool,) = (await session.ask("tools/list"))["result"]["tools"]
            assert tool.get("execution") == ({"taskSupport": "optional"} if says else None)
        session = await TaskSession.open(port)
        refused = await session.ask("tools/call", name="short", arguments={}, task={})
        assert refused["error"]["code"] == -32601
        # Without the wish it is a call as ever.
        answer = await session.ask("tools/call", name="long", arguments={})
        assert "task" not in answer


class Own(Server):
    """A server that has tasks itself."""

    capabilities: ClassVar[dict[str, Any]] = {"tasks": {"requests": {"tools": {"call": {}}}}}
    tool: ClassVar[dict[str, Any]] = {"name": "long", "execution": {"taskSupport": "required"}}


@pytest.mark.parametrize("learned", ["by itself", "by asking"])
async def test_a_server_with_tasks_of_its_own_is_left_alone(tmp_store: str, learned: str) -> None:
    app, task = Own(), {"ttl": 5}
    async with persisted(app, tmp_store) as (port, persistence):
        session = await TaskSession.open(port)
        if learned == "by asking":
            # As on a worker that has seen no `initialize`.
            access_to(persistence).memory.own_core_tasks.clear()
        assert (await session.ask("tools/list"))["result"]["tools"] == [Own.tool]
        await session.ask("tools/call", name="short", arguments={}, task=task)
        assert app.bodies[-1]["params"]["task"] == task
        answer = await session.ask("tasks/get", taskId="x")
        assert answer["error"]["message"] == "no such method"


async def test_tasks_are_off_where_the_user_says_so(tmp_store: str) -> None:
    async with served(tmp_store, tasks=False) as (app, port):
        session = await TaskSession.open(port)
        await session.ask("tools/call", name="short", arguments={}, task={"ttl": 5})
        assert app.bodies[-1]["params"]["task"] == {"ttl": 5}


async def test_without_sessions_an_id_is_enough_for_who_is_nobody_and_a_name_for_who_is_somebody(
    tmp_store: str,
) -> None:
    server = MCPServer("stateless", log_level="WARNING")

    @server.tool()
    async def long() -> str:
        return "done"

    app = server.streamable_http_app(stateless_http=True)
    async with served(tmp_store, app) as (_, port):
        nobody = TaskSession(port)
        ann = TaskSession(port, extra={"authorization": "Bearer ann"})
        ben = TaskSession(port, extra={"authorization": "Bearer ben"})
        for session in (nobody, ann):
            name = (await session.begin("long"))["taskId"]
            await session.reached(name, "completed")
            result = (await session.ask("tasks/result", taskId=name))["result"]
            assert result["content"][0]["text"] == "done"
            assert (await ben.ask("tasks/get", taskId=name))["error"]["code"] == -32602
        assert (await nobody.ask("tasks/list"))["result"] == {"tasks": []}
        assert len((await ann.ask("tasks/list"))["result"]["tasks"]) == 1


async def test_a_call_that_cannot_be_a_task_is_answered_as_a_call(tmp_store: str) -> None:
    async with served(tmp_store, max_jobs=1) as (app, port):
        session = await TaskSession.open(port)
        name = (await session.begin("long"))["taskId"]
        answer = await session.ask("tools/call", name="short", arguments={}, task={})
        assert answer["result"]["content"][0]["text"] == "done"
        app.go_on.set()
        await session.reached(name, "completed")
        assert await session.begin("short")


async def test_what_stays_open_behind_its_answer_keeps_nobody_waiting(tmp_store: str) -> None:
    class Lingering(Server):
        async def _answer(self, call: Call) -> None:
            if call.request.get("method") != "initialize":
                await super()._answer(call)
                return
            await call.head((b"mcp-session-id", b"s"))
            result = {"protocolVersion": "2025-11-25", "capabilities": {}, "serverInfo": {}}
            await call.emit({"id": call.request["id"], "result": result})
            await call.watch()

    async with served(tmp_store, Lingering()) as (_, port):
        params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {}}
        greeting = await text(await TaskSession(port).post("initialize", params))
        assert greeting["result"]["capabilities"] == {"tasks": CAPABILITY}


async def test_a_caller_who_is_refused_is_asked_for_once_and_changes_nothing_for_others(
    tmp_store: str,
) -> None:
    app = Server()
    app.allow = lambda headers: headers.get("authorization") != "Bearer bad"
    async with persisted(app, tmp_store) as (port, persistence):
        session = await TaskSession.open(port, extra={"authorization": "Bearer good"})
        access_to(persistence).memory.own_core_tasks.clear()
        stranger = TaskSession(port, extra={"authorization": "Bearer bad"})
        counts = []
        for _ in range(3):
            before = len(app.requests)
            response = await stranger.post("tools/list")
            assert response.status == 401
            response.close()
            counts.append(len(app.requests) - before)
        assert counts == [2, 1, 1]
        (tool,) = (await session.ask("tools/list"))["result"]["tools"]
        assert tool["execution"] == {"taskSupport": "optional"}


async def test_a_result_that_is_asked_again_is_its_owners_alone(tmp_store: str) -> None:
    async with persisted(Server(), tmp_store) as (port, persistence):
        ann, bob = await TaskSession.open(port), await TaskSession.open(port)
        task = (await ann.begin("short"))["taskId"]
        context = (await access_to(persistence).parts()).exchanges
        assert context.log.jobs is not None
        owner = (await context.log.jobs.list(None, b"", 1))[0].owner
        body = json.dumps({"params": {"taskId": task}}).encode()
        told: list[Any] = []

        async def send(message: Any) -> None:
            told.append(message)

        for session in (ann, bob):
            scope = {"type": "http", "path": owner.path, "root_path": "", "headers": []}
            whose = dataclasses.replace(owner, session=session.session_id)
            caller = Caller(context, Server(), scope, whose)
            asked = Asked(Request(RequestKind.EXCHANGE), scope, Body.of(body))
            answers = await core_result.again(caller, asked, 77)
            assert isinstance(answers, core_result.TaskResult) is (session is ann)
        await answers(scope, nothing, send)
        assert json.loads(told[-1]["body"])["error"]["code"] == -32602


async def nothing() -> Any:
    """Nobody has anything to say."""
