"""A call that its client cannot wait for: it is told so before its clock runs out, calls again, and
has the result of the one run."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest

from mcp_persist_middleware.model import JobRecord, Place
from mcp_persist_middleware.persistence import access_to
from mcp_persist_middleware.stores.sql.jobs import SqlJobs
from mcp_persist_middleware.tasks import hand_back
from mcp_persist_middleware.tasks.schemas import takes_text
from tests.support.scripted import Call, Scripted, persisted, until
from tests.support.session import HANDSHAKE, MODERN, RawSession
from tests.support.sse_client import Response

_ANN, _BOB = {"authorization": "Bearer ann"}, {"authorization": "Bearer bob"}
_SOON = 0.4


class Listing(Scripted):
    """Says what its tools are."""

    async def _answer(self, call: Call) -> None:
        if call.request.get("method") == "tools/list":
            text = {"type": "object", "properties": {"result": {"type": "string"}}}
            exact = {"type": "object", "properties": {"result": {"type": "integer"}}}
            tools = [
                {"name": "slow", "outputSchema": text | {"required": ["result"]}},
                {"name": "exact", "outputSchema": exact},
            ]
            result = {"jsonrpc": "2.0", "id": call.request["id"], "result": {"tools": tools}}
            await call.json(200, result)
        else:
            await super()._answer(call)


class Held:
    """A tool that goes on until it is told to end."""

    def __init__(self, *, as_json: bool = False) -> None:
        self.runs = 0
        self.asked: list[tuple[bytes, dict[str, Any]]] = []
        """By whom and with what, run by run."""
        self.done = asyncio.Event()
        self._as_json = as_json

    async def __call__(self, call: Call) -> None:
        self.runs += 1
        number, headers = self.runs, dict(call.scope["headers"])
        arguments = call.request["params"].get("arguments", {})
        self.asked.append((headers.get(b"authorization", b""), arguments))
        if not self._as_json:
            await call.head()
            await call.progress(1, "half way")
        await self.done.wait()
        if self._as_json:
            content = {"content": [{"type": "text", "text": f"run {number}"}]}
            message = {"jsonrpc": "2.0", "id": call.request["id"], "result": content}
            await call.json(200, message)
        else:
            await call.result(f"run {number}")


async def answer_of(response: Response) -> dict[str, Any]:
    """The message that answers, as a stream or as JSON."""
    assert response.status == 200
    if not response.is_stream:
        return json.loads(await response.body())
    return next(f.message for f in [f async for f in response.frames()] if f.is_response)


async def text_of(response: Response) -> str:
    return (await answer_of(response))["result"]["content"][0]["text"]


@pytest.mark.parametrize("version", [HANDSHAKE, MODERN])
@pytest.mark.parametrize("as_json", [False, True])
async def test_a_long_tool_is_had_in_three_calls_and_runs_once(
    tmp_store: str, version: str, as_json: bool
) -> None:
    app = Listing(slow=(tool := Held(as_json=as_json)))
    async with persisted(app, tmp_store, hand_back=_SOON) as (port, _):
        session = await RawSession.open(port, version, extra=_ANN)
        told = await text_of(await session.call("slow", size=1))
        assert 'The tool "slow" is still running' in told
        assert 'call "slow" again with exactly the same arguments' in told
        assert ("half way" in told) == (not as_json)
        assert "is still running" in await text_of(await session.call("slow", size=1))
        third = asyncio.create_task(session.call("slow", size=1))
        await asyncio.sleep(0)
        tool.done.set()
        answer = await answer_of(await third)
        assert answer["result"]["content"][0]["text"] == "run 1"
        assert answer["id"] == session._ids.__next__() - 1
        assert tool.runs == 1


async def test_another_argument_runs_anew_and_another_caller_meets_nothing_of_it(
    tmp_store: str,
) -> None:
    app = Listing(slow=(tool := Held()))
    async with persisted(app, tmp_store, hand_back=_SOON) as (port, _):
        ann, bob = [await RawSession.open(port, extra=each) for each in (_ANN, _BOB)]
        asked = [ann.call("slow", size=1), ann.call("slow", size=2), bob.call("slow", size=1)]
        for response in await asyncio.gather(*asked):
            assert "is still running" in await text_of(response)
        assert tool.runs == 3
        tool.done.set()
        # A new session of the same caller changes nothing.
        again = await RawSession.open(port, extra=_ANN)
        for session, caller, size in ((again, b"ann", 1), (again, b"ann", 2), (bob, b"bob", 1)):
            number = int(
                (await text_of(await session.call("slow", size=size))).removeprefix("run ")
            )
            assert tool.asked[number - 1] == (b"Bearer " + caller, {"size": size})
        assert tool.runs == 3


async def test_of_two_that_came_together_both_are_told_and_have_one_result(tmp_store: str) -> None:
    app = Listing(slow=(tool := Held()))
    async with persisted(app, tmp_store, hand_back=0.2) as (port, _):
        session = await RawSession.open(port, extra=_ANN)
        for response in await asyncio.gather(session.call("slow"), session.call("slow")):
            assert "is still running" in await text_of(response)
        tool.done.set()
        both = {await text_of(await session.call("slow")) for _ in range(2)}
        assert len(both) == 1


@pytest.mark.parametrize("ends_first", [True, False])
async def test_a_call_outlives_the_session_that_its_client_deletes(
    tmp_store: str, ends_first: bool
) -> None:
    app = Listing(slow=(tool := Held()))
    async with persisted(app, tmp_store, hand_back=0.2) as (port, opened):
        first = await RawSession.open(port, extra=_ANN)
        assert "is still running" in await text_of(await first.call("slow"))
        live = (await access_to(opened).context()).writer.live
        deleted = [scope for scope in app.requests if scope["method"] == "DELETE"]
        if ends_first:
            tool.done.set()
            await until(lambda: not live)
        assert await first.delete() == 200
        registry = (await access_to(opened).parts()).sessions
        key = registry.key(Place("default", "/mcp"), first.session_id or "")
        assert registry.held(key) is None, "the session is over at once"
        assert await registry.find(key) is None
        second = await RawSession.open(port, extra=_ANN)
        if not ends_first:
            assert "is still running" in await text_of(await second.call("slow"))
            assert not deleted
            tool.done.set()
        assert await text_of(await second.call("slow")) == "run 1"
        await until(lambda: any(scope["method"] == "DELETE" for scope in app.requests))
        assert await text_of(await second.call("slow")) == "run 1"
        assert tool.runs == 1


async def test_without_a_principal_the_session_is_the_owner(tmp_store: str) -> None:
    app = Listing(slow=(tool := Held()))
    async with persisted(app, tmp_store, hand_back=_SOON) as (port, _):
        mine, other = await RawSession.open(port), await RawSession.open(port)
        assert "is still running" in await text_of(await mine.call("slow"))
        assert "is still running" in await text_of(await other.call("slow"))
        assert tool.runs == 2
        tool.done.set()
        assert await text_of(await mine.call("slow")) == "run 1"
        assert await text_of(await other.call("slow")) == "run 2"


async def test_nobody_in_particular_is_handed_nothing(tmp_store: str) -> None:
    app = Listing(slow=(tool := Held()))
    async with persisted(app, tmp_store, hand_back=0.1) as (port, _):
        nobody = RawSession(port, MODERN)
        call = asyncio.create_task(nobody.call("slow"))
        await until(lambda: tool.runs)
        await asyncio.sleep(0.3)
        tool.done.set()
        assert await text_of(await call) == "run 1"


async def test_a_result_that_was_fetched_is_given_again_for_a_while_and_then_runs_anew(
    tmp_store: str,
) -> None:
    app = Listing(slow=(tool := Held()))
    async with persisted(app, tmp_store, hand_back=0.2, hand_back_ttl=0.5) as (port, _):
        session = await RawSession.open(port, extra=_ANN)
        await text_of(await session.call("slow"))
        tool.done.set()
        assert await text_of(await session.call("slow")) == "run 1"
        assert await text_of(await session.call("slow")) == "run 1"
        await asyncio.sleep(0.6)
        assert await text_of(await session.call("slow")) == "run 2"


async def test_its_client_may_say_that_it_wants_a_new_run(tmp_store: str) -> None:
    app = Listing(slow=(tool := Held()))
    async with persisted(app, tmp_store, hand_back=0.2) as (port, _):
        session = await RawSession.open(port, extra=_ANN)
        await text_of(await session.call("slow"))
        tool.done.set()
        assert await text_of(await session.call("slow")) == "run 1"
        meta = {"io.github.mcp-persist/new-run": True}
        params = {"name": "slow", "arguments": {}, "_meta": meta}
        assert await text_of(await session.post("tools/call", params)) == "run 2"


async def test_an_error_is_told_once_and_stands_in_nobodys_way(tmp_store: str) -> None:
    fails = asyncio.Event()
    runs = 0

    async def slow(call: Call) -> None:
        nonlocal runs
        runs += 1
        await call.head()
        await fails.wait()
        error = {"code": -32001, "message": "no paper"}
        await call.emit({"id": call.request["id"], "error": error})
        await call.end()

    async with persisted(Listing(slow=slow), tmp_store, hand_back=0.2) as (port, _):
        session = await RawSession.open(port, extra=_ANN)
        await text_of(await session.call("slow"))
        fails.set()
        answer = await answer_of(await session.call("slow"))
        assert answer["error"] == {"code": -32001, "message": "no paper"}
        assert (await answer_of(await session.call("slow")))["error"]["message"] == "no paper"
        assert runs == 2


async def test_a_tool_with_an_output_schema_is_not_handed_back_and_that_is_said_once(
    tmp_store: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = Listing(exact=(tool := Held()))
    async with persisted(app, tmp_store, hand_back=0.1) as (port, _):
        session = await RawSession.open(port, extra=_ANN)
        calls = [asyncio.create_task(session.call("exact", n=n)) for n in range(2)]
        await until(lambda: "MPM-JOB-05" in caplog.text)
        tool.done.set()
        assert {await text_of(await each) for each in calls} == {"run 1", "run 2"}
        assert caplog.text.count("MPM-JOB-05") == 1


@pytest.mark.parametrize(
    ("result", "fits"),
    [
        ({"type": "string", "title": "Result"}, True),
        ({"anyOf": [{"type": "integer"}, {"type": "string"}], "title": "Result"}, True),
        ({"type": "integer"}, False),
        ({"type": "string", "maxLength": 10}, False),
        ({"type": "string", "enum": ["yes", "no"]}, False),
        ({"$ref": "#/$defs/Result"}, False),
    ],
)
def test_a_sentence_stands_where_a_schema_takes_any_text(result: Any, fits: bool) -> None:
    schema = {"type": "object", "properties": {"result": result}, "required": ["result"]}
    assert takes_text(schema) == fits
    other = {"result": result, "size": {"type": "integer"}}
    assert not takes_text(schema | {"properties": other})
    assert not takes_text(schema | {"required": ["result", "size"]})
    assert not takes_text(result)


@pytest.mark.parametrize("wanted", [["other"], lambda tool, arguments: arguments["size"] > 1])
async def test_the_setting_says_which_calls_may_be_handed_back(tmp_store: str, wanted: Any) -> None:
    app = Listing(slow=(tool := Held()))
    settings = {"hand_back": 0.1, "hand_back_for": wanted}
    async with persisted(app, tmp_store, **settings) as (port, _):
        session = await RawSession.open(port, extra=_ANN)
        call = asyncio.create_task(session.call("slow", size=1))
        await until(lambda: tool.runs)
        await asyncio.sleep(0.3)
        tool.done.set()
        assert await text_of(await call) == "run 1"


async def test_the_result_is_there_after_a_restart_and_the_tool_has_run_once(
    tmp_store: str,
) -> None:
    app = Listing(slow=(tool := Held()))
    async with persisted(app, tmp_store, hand_back=0.2) as (port, persistence):
        session = await RawSession.open(port, MODERN, extra=_ANN)
        await text_of(await session.call("slow"))
        tool.done.set()
        context = await access_to(persistence).context()
        await until(lambda: not context.writer.live)
    async with persisted(app, tmp_store, hand_back=0.2) as (port, _):
        session = await RawSession.open(port, MODERN, extra=_ANN)
        assert await text_of(await session.call("slow")) == "run 1"
        assert tool.runs == 1


async def test_a_run_that_its_worker_took_with_it_is_an_honest_error_and_then_runs_anew(
    tmp_store: str,
) -> None:
    app = Listing(slow=(tool := Held()))
    async with persisted(app, tmp_store, hand_back=0.2) as (port, _):
        session = await RawSession.open(port, MODERN, extra=_ANN)
        await text_of(await session.call("slow"))
    async with persisted(app, tmp_store, hand_back=0.2) as (port, _):
        session = await RawSession.open(port, MODERN, extra=_ANN)
        error = (await answer_of(await session.call("slow")))["error"]
        assert error["message"].startswith("Interrupted")
        tool.done.set()
        assert await text_of(await session.call("slow")) == "run 2"


async def test_what_was_seen_of_a_callers_jobs_before_one_was_made_hides_it_from_nobody(
    tmp_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    look, looks, seen, go_on = SqlJobs.list, 0, asyncio.Event(), asyncio.Event()

    async def slowly(jobs: SqlJobs, *asked: Any) -> Sequence[JobRecord]:
        nonlocal looks
        looks += 1
        found = await look(jobs, *asked)
        if looks == 1:
            seen.set()
            await go_on.wait()
        return found

    monkeypatch.setattr(SqlJobs, "list", slowly)
    # However long this machine takes.
    monkeypatch.setattr(hand_back, "SEEN", 30.0)
    app = Listing(slow=(tool := Held()))
    async with persisted(app, tmp_store, hand_back=_SOON) as (port, persistence):
        context = await access_to(persistence).context()
        session = await RawSession.open(port, extra=_ANN)
        first = asyncio.create_task(session.call("slow", size=1))
        await until(lambda: context.memory.principals)
        other = asyncio.create_task(session.call("slow", size=2))
        async with asyncio.timeout(10):
            await seen.wait()
        assert "is still running" in await text_of(await first)
        go_on.set()
        await until(lambda: tool.runs == 2)
        assert "is still running" in await text_of(await session.call("slow", size=1))
        assert tool.runs == 2
        tool.done.set()
        await text_of(await other)
