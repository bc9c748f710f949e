"""Tasks come to a listen that asks for them, on whichever worker: two of them on one event loop."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.interaction.test_tasks import Application
from tests.support.scripted import Call, persisted, until
from tests.support.sse_client import Response
from tests.support.task_client import TaskClient

pytestmark = pytest.mark.timeout(60)
_ID = "io.modelcontextprotocol/subscriptionId"
_ACK = "notifications/subscriptions/acknowledged"


class Listened(Application):
    """It knows listens as well, and nothing of tasks."""

    def __init__(self) -> None:
        super().__init__()
        self.listens: list[Any] = []

    async def _answer(self, call: Call) -> None:
        if call.request.get("method") != "subscriptions/listen":
            await super()._answer(call)
            return
        asked = call.request["params"]["notifications"]
        self.listens.append(asked)
        await call.head()
        meta = {"_meta": {_ID: call.request["id"]}}
        await call.emit({"method": _ACK, "params": {"notifications": asked, **meta}})
        await call.emit({"method": "notifications/tools/list_changed", "params": meta})
        await call.watch()


@contextlib.asynccontextmanager
async def two(url: str, **settings: Any) -> AsyncIterator[tuple[Listened, TaskClient, TaskClient]]:
    apps = Listened(), Listened()
    given = {"tasks_after": 0.1, "missed_hints": 0, **settings}
    async with (
        persisted(apps[0], url, **given) as (one, _),
        persisted(apps[1], url, **given, retry_ms=2999) as (other, _),
    ):
        try:
            yield apps[0], TaskClient(one), TaskClient(other)
        finally:
            for app in apps:
                app.gate.set()


async def listen(client: TaskClient, *tasks: str, **more: Any) -> Response:
    return await client.post("subscriptions/listen", {"notifications": {"taskIds": tasks, **more}})


async def test_a_task_comes_as_it_is_and_whenever_it_has_changed_to_another_worker(
    tmp_store: str,
) -> None:
    async with two(tmp_store) as (app, here, there):
        name = (await here.call("stream"))["taskId"]
        stranger = TaskClient(there.port, extra={"authorization": "Bearer other"})
        foreign = await listen(stranger, name, "A" * 32)
        (refused,) = await foreign.take(1)
        assert refused.message["params"]["notifications"] == {"taskIds": []}
        response = await listen(there, name, "what")
        acknowledged, first = [frame.message for frame in await response.take(2)]
        assert acknowledged["method"] == _ACK
        assert acknowledged["params"]["notifications"] == {"taskIds": [name]}
        assert first["method"] == "notifications/tasks"
        assert first["params"]["status"] == "working"
        number = acknowledged["params"]["_meta"][_ID]
        app.gate.set()
        while True:
            (frame,) = await response.take(1)
            told = frame.message["params"]
            assert told.pop("_meta") == {_ID: number}
            if told["status"] != "working":
                break
        found = await here.get(name)
        assert {"resultType": "complete", **told}.items() <= found.items()
        assert told["result"]["content"][0]["text"] == "from a stream"
        for each in (response, foreign):
            each.reset()


async def test_of_tasks_the_application_hears_nothing_and_of_the_rest_all(tmp_store: str) -> None:
    async with two(tmp_store) as (app, here, _):
        name = (await here.call("json"))["taskId"]
        response = await listen(here, name, toolsListChanged=True)
        frames = [frame.message for frame in await response.take(3)]
        assert frames[0]["params"]["notifications"] == {"toolsListChanged": True, "taskIds": [name]}
        methods = {frame["method"] for frame in frames[1:]}
        assert methods == {"notifications/tools/list_changed", "notifications/tasks"}
        assert app.listens == [{"toolsListChanged": True}]
        response.reset()
        names = [task.get_name() for task in asyncio.all_tasks()]
        assert "mcp-persist-push" in names
        await until(
            lambda: "mcp-persist-push" not in [task.get_name() for task in asyncio.all_tasks()]
        )


async def test_who_does_not_know_tasks_is_told_what_is_missing(tmp_store: str) -> None:
    async with two(tmp_store) as (_, here, __):
        bare = TaskClient(here.port, knows=False)
        answer = await bare.ask("subscriptions/listen", {"notifications": {"taskIds": ["x"]}})
        assert (answer["status"], answer["error"]["code"]) == (400, -32021)


async def test_an_application_with_tasks_of_its_own_has_the_whole_listen(tmp_store: str) -> None:
    async with two(tmp_store) as (app, here, _):
        extension = {"io.modelcontextprotocol/tasks": {}}
        app.discovered["capabilities"]["extensions"] = extension
        response = await listen(here, "x")
        (frame,) = await response.take(1)
        assert frame.message["params"]["notifications"] == {"taskIds": ["x"]}
        assert app.listens == [{"taskIds": ["x"]}]
        response.reset()
