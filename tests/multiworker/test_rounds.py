"""A call of several rounds (2026-07-28) is answered wherever its client comes back: the SDK seals
the state of its questions with a key of its process, unless it is given another."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from mcp import types
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.request_state import RequestStateSecurity

from mcp_persist_middleware.persistence import access_to
from mcp_persist_middleware.sessions.rounds import Rounds, state_in
from tests.peers.multi_round import ask
from tests.support.scripted import persisted, until
from tests.support.session import MODERN, RawSession
from tests.support.sse_client import Response
from tests.support.stores import STORES, WITH_AND_WITHOUT_REDIS, Store
from tests.support.task_client import TaskClient

_KEY = "0123456789abcdef" * 4


def sqlite_in(directory: Path) -> Store:
    return STORES["sqlite"](directory, str)


def server(name: str, key: str | None, **http: Any) -> Any:
    """An application with a tool that asks twice, and says who has answered at the end."""
    security = RequestStateSecurity(keys=[key]) if key else None
    made = MCPServer("rounds", request_state_security=security)

    @made.tool()
    async def order(ctx: Context) -> str | types.InputRequiredResult:
        rounds = int(ctx.request_state or "0")
        if rounds < 2:
            state, requests = str(rounds + 1), {"size": ask("Which size?", "size")}
            return types.InputRequiredResult(input_requests=requests, request_state=state)
        return f"ordered at {name}"

    @made.tool()
    async def slowly(ctx: Context) -> str | types.InputRequiredResult:
        await asyncio.sleep(0.2)
        return await order(ctx)

    return made.streamable_http_app(**http)


@asynccontextmanager
async def workers(
    store: Store, *, key: str | None = None, json_response: bool = False, **more: Any
) -> AsyncIterator[tuple[int, int, AsyncExitStack]]:
    """Two of them; the second may be stopped before the first."""
    async with AsyncExitStack() as first, AsyncExitStack() as second:
        made = []
        for number, stack in enumerate((first, second)):
            app = server(f"worker {number}", key, json_response=json_response)
            settings = store.settings | {"retry_ms": 1000 + number} | more
            made.append(await stack.enter_async_context(persisted(app, **settings)))
        (one, of_one), (two, of_two) = made
        for each in (of_one, of_two):
            member = (await access_to(each).context()).member
            await until(lambda member=member: member.peers.has_peers(member.name))
        yield one, two, second


async def result_of(response: Response) -> dict[str, Any]:
    """The answer, whether it comes as a stream or as JSON."""
    if not response.is_stream:
        return json.loads(await response.body())
    frames = [frame async for frame in response.frames()]
    return next(frame.message for frame in frames if frame.is_response)


async def round_at(port: int, state: str | None = None, **extra: str) -> dict[str, Any]:
    params: dict[str, Any] = {"name": "order", "arguments": {}}
    if state is not None:
        params |= {
            "requestState": state,
            "inputResponses": {"size": {"action": "accept", "content": {"size": "L"}}},
        }
    session = RawSession(port, MODERN, extra=extra)
    return await result_of(await session.post("tools/call", params))


# How it is answered and where are one to a store.
@pytest.mark.parametrize(
    ("store", "json_response"),
    [("sqlite", False), ("postgres", True), ("sqlite+redis", True), ("postgres+redis", False)],
    indirect=["store"],
)
async def test_each_round_goes_to_the_worker_that_asked(store: Store, json_response: bool) -> None:
    async with workers(store, json_response=json_response) as (one, two, _):
        asked = (await round_at(two))["result"]
        assert asked["resultType"] == "input_required"
        again = (await round_at(one, asked["requestState"]))["result"]
        assert again["resultType"] == "input_required"
        # The second state was sealed by the same worker, whichever was asked.
        answer = (await round_at(one, again["requestState"]))["result"]
        assert answer["content"][0]["text"] == "ordered at worker 1"


@WITH_AND_WITHOUT_REDIS
async def test_what_a_task_asks_is_answered_at_the_worker_that_asked(store: Store) -> None:
    settings = {"tasks_after": 0, "tasks_for": ["slowly"]}
    async with workers(store, **settings) as (one, two, _):
        here, there = TaskClient(two), TaskClient(one)
        task = (await here.call("slowly"))["taskId"]
        answer = {"action": "accept", "content": {"size": "L"}}
        for _ in range(2):
            asked = await there.until(task, "input_required")
            given = dict.fromkeys(asked["inputRequests"], answer)
            await there.ask("tasks/update", {"taskId": task, "inputResponses": given})
        done = await there.until(task)
        assert done["result"]["content"][0]["text"] == "ordered at worker 1"


@pytest.mark.parametrize("key", [None, _KEY])
async def test_without_that_worker_the_application_judges(tmp_path: Path, key: str | None) -> None:
    async with workers(sqlite_in(tmp_path), key=key) as (one, two, second):
        state = (await round_at(two))["result"]["requestState"]
        await second.aclose()
        answer = await round_at(one, state)
        if key is None:
            assert answer["error"]["data"] == {"reason": "invalid_request_state"}
        else:
            state = answer["result"]["requestState"]
            answer = await round_at(one, state)
            assert answer["result"]["content"][0]["text"] == "ordered at worker 0"


async def test_a_state_is_found_for_whoever_was_given_it_alone(tmp_path: Path) -> None:
    """Who has it from elsewhere is served where he asks, as without us: refused there."""
    async with workers(sqlite_in(tmp_path)) as (one, two, _):
        mine, other = {"authorization": "Bearer ann"}, {"authorization": "Bearer bob"}
        state = (await round_at(two, **mine))["result"]["requestState"]
        assert "error" in await round_at(one, state, **other)
        assert "result" in await round_at(one, state, **mine)


def test_no_header_names_a_round() -> None:
    key = Rounds.key(("n", "/mcp"), "", "state")
    with pytest.raises(UnicodeEncodeError):
        key.id.encode("latin-1")


@pytest.mark.parametrize(
    ("body", "state"),
    [
        (b'{"resultType": "input_required", "requestState": "a\\"b"}', 'a"b'),
        (b'{"resultType":"complete","requestState":"a"}', None),
        (b'{"text": "{\\"resultType\\":\\"input_required\\",\\"requestState\\":\\"a\\"}"}', None),
        (b'{"resultType": "input_required", "requestState": "a', None),
        (b'{"resultType": "input_required", "requestState": 7}', None),
    ],
)
def test_the_state_of_a_question_is_found(body: bytes, state: str | None) -> None:
    assert state_in(body) == state
