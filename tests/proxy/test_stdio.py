"""A server that speaks on its pipes is served as one that speaks HTTP, a process for each session,
and whatever a process does, its calls end and it is gone in the end."""

import asyncio
import json
import logging
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from mcp_persist_middleware import ConfigurationError
from mcp_persist_middleware.ops.proxy import StdioOptions, StdioUpstream, proxy_app
from mcp_persist_middleware.ops.proxy.breaker import State
from mcp_persist_middleware.ops.proxy.stdio import pool
from mcp_persist_middleware.ops.proxy.stdio.child import BusyError
from mcp_persist_middleware.ops.proxy.stdio.pool import Children
from tests.support.scripted import serving, until
from tests.support.session import MODERN, RawSession
from tests.support.sse_client import Response, request

PIPED = [sys.executable, "-I", "-S", str(Path(__file__).with_name("piped.py"))]
pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals and process groups"),
]


@asynccontextmanager
async def piped(
    mode: str = "", owner: Any = None, **options: Any
) -> AsyncIterator[tuple[int, StdioUpstream]]:
    """A server on pipes behind HTTP, without a store; its port."""
    options = {"stop_timeout": 0.2} | options
    upstream = StdioUpstream([*PIPED, mode], StdioOptions(**options))
    if owner is not None:
        upstream.owner = owner
    async with serving(upstream) as port:
        try:
            yield port, upstream
        finally:
            await upstream.aclose()


async def by_name(scope: Any) -> str:
    return dict(scope["headers"]).get(b"x-user", b"").decode()


async def told(response: Response) -> Any:
    """The answer in a response, whichever form it has."""
    if response.is_stream:
        return [frame async for frame in response.frames() if frame.data][-1].message
    return json.loads(await response.body())


async def text(response: Response) -> str:
    answer = await told(response)
    return str(answer["result"]["content"][0]["text"])


async def pid(session: RawSession) -> tuple[int, int]:
    """The session's process, and how many calls it has had."""
    process, calls = (await text(await session.call("pid"))).split()
    return int(process), int(calls)


def is_alive(process: int) -> bool:
    """Whether it is there, and not merely unburied."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        if Path("/proc/self/stat").exists():
            return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


async def gone(*processes: int) -> None:
    await until(lambda: not any(map(is_alive, processes)))


# Whose process.


async def test_every_session_has_a_process_of_its_own_which_ends_with_it() -> None:
    async with piped() as (port, upstream):
        one, other = await RawSession.open(port), await RawSession.open(port)
        first, _ = await pid(one)
        assert (await pid(one))[0] == first != (await pid(other))[0]
        assert await one.delete() == 200
        await gone(first)
        assert (await one.call("pid")).status == 404
        assert (await pid(other))[1] == 2
    assert len(upstream.children) == 0


async def test_50_sessions_at_once_are_50_processes_and_none_is_left_at_the_end() -> None:
    async with piped() as (port, _):
        sessions = await asyncio.gather(*(RawSession.open(port) for _ in range(50)))
        processes = {process for process, _ in await asyncio.gather(*map(pid, sessions))}
        assert len(processes) == 50
    await gone(*processes)


async def test_without_sessions_a_caller_has_one_process_and_a_stranger_one_for_each_call() -> None:
    async with piped(owner=by_name) as (port, _):
        ann, bob = (RawSession(port, MODERN, extra={"x-user": name}) for name in ("ann", "bob"))
        stranger = RawSession(port, MODERN)
        found = await asyncio.gather(*(pid(who) for who in (ann, ann, bob, stranger, stranger)))
        assert len({process for process, _ in found}) == 4
        assert found[0][0] == found[1][0]
        await gone(found[3][0], found[4][0])


async def test_two_clients_of_one_caller_may_choose_the_same_ids_and_tokens() -> None:
    async with piped(owner=by_name) as (port, _):
        clients = [RawSession(port, MODERN, extra={"x-user": "ann"}) for _ in range(4)]
        answers = await asyncio.gather(
            *(client.call("count", n=n, delay=0.01) for n, client in enumerate(clients, 3))
        )
        for n, response in enumerate(answers, 3):
            frames = [frame async for frame in response.frames() if frame.data]
            assert [frame.progress for frame in frames] == [*range(1, n + 1), None]
            assert frames[0].message["params"]["progressToken"] == "p"
            assert frames[-1].message["id"] == 1


# What belongs to whom.


async def test_a_question_of_the_server_is_asked_on_the_stream_of_its_call() -> None:
    async with piped() as (port, _):
        session = await RawSession.open(port)
        response = await session.call("ask")
        [question] = await response.take(1)
        assert question.message["method"] == "elicitation/create"
        body = {"jsonrpc": "2.0", "id": question.message["id"], "result": {"action": "accept"}}
        replied = await request(
            port, "POST", headers=session.headers(), body=json.dumps(body).encode()
        )
        assert replied.status == 202
        assert json.loads(await text(response)) == {"action": "accept"}


async def test_what_belongs_to_no_call_is_kept_for_the_stream_of_the_session() -> None:
    async with piped() as (port, _):
        session = await RawSession.open(port)
        response = await session.call("change")
        assert [frame.is_response async for frame in response.frames() if frame.data] == [True]
        stream = await session.get()
        [change] = await stream.take(1)
        assert change.message["method"] == "notifications/tools/list_changed"
        assert (await session.get()).status == 409
        stream.close()


async def test_a_subscription_hears_by_the_id_of_its_own_request() -> None:
    async with piped() as (port, _):
        session = RawSession(port, MODERN)
        response = await session.post("subscriptions/listen", {"notifications": {}}, request_id="s")
        for frame in await response.take(2):
            key = "io.modelcontextprotocol/subscriptionId"
            assert frame.message["params"]["_meta"][key] == "s"
        response.close()


async def test_logs_go_to_the_call_that_asked_for_them_and_questions_are_refused() -> None:
    async with piped() as (port, _):
        session = RawSession(port, MODERN)
        level = {"_meta": {"io.modelcontextprotocol/logLevel": "info"}}
        asked = await session.post("tools/call", {"name": "log", **level})
        assert asked.is_stream
        assert not (await session.call("log")).is_stream
        refused = await session.call("ask")
        assert "answers no requests" in await text(refused)


async def test_every_byte_that_is_not_an_id_is_handed_on_as_it_was_written() -> None:
    async with piped() as (port, _):
        session = await RawSession.open(port)
        response = await session.post("tools/call", {"name": "exact"}, request_id="a")
        [frame] = [frame async for frame in response.frames() if frame.data]
        assert frame.data == (
            '{"jsonrpc":"2.0","result":{"n":1e400,"s":"\\ud800","i":1%s},"id":"a"}' % ("0" * 40)
        )


# Cancelling.


async def test_a_client_that_leaves_has_cancelled_where_its_revision_says_so() -> None:
    async with piped(owner=by_name) as (port, _):
        session = RawSession(port, MODERN, extra={"x-user": "ann"})
        response = await session.call("count", n=1000, delay=0.01)
        await response.take(1)
        response.reset()

        async def has_cancelled() -> bool:
            return json.loads(await text(await session.call("cancelled"))) == [1]

        async with asyncio.timeout(20):
            while not await has_cancelled():
                await asyncio.sleep(0.02)


async def test_a_cancellation_reaches_the_server_by_its_own_id_and_an_unknown_one_does_not() -> (
    None
):
    async with piped() as (port, _):
        session = await RawSession.open(port)
        response = await session.post("tools/call", {"name": "silent"}, request_id="x")
        for wanted in ("x", "unknown"):
            params = {"requestId": wanted}
            assert await session.notify("notifications/cancelled", params) == 202
        # 1 was `initialize`.
        assert json.loads(await text(await session.call("cancelled"))) == [2]
        response.close()


async def test_a_call_that_was_cancelled_ends_although_its_server_never_answers() -> None:
    async with piped(cancel_timeout=0.1, max_requests=1) as (port, _):
        session = await RawSession.open(port)
        response = await session.call("silent")
        assert await session.notify("notifications/cancelled", {"requestId": 2}) == 202
        assert (await told(response))["error"]["message"] == "Request cancelled"
        assert (await pid(session))[1] == 2


async def test_a_call_that_nobody_waits_for_keeps_no_process_for_ever() -> None:
    async with piped(idle_seconds=0.3) as (port, _):
        session = await RawSession.open(port)
        process, _ = await pid(session)
        (await session.call("silent")).reset()
        await gone(process)


# Processes that misbehave.


async def test_a_process_that_dies_ends_its_calls_with_an_error_and_its_session_is_unknown() -> (
    None
):
    async with piped() as (port, _):
        session = await RawSession.open(port)
        waiting = await session.call("silent")
        died = await session.call("exit")
        for response in (waiting, died):
            answer = await told(response)
            assert answer["error"]["message"] == (
                "Interrupted: the server's process ended with exit status 3 before it had answered"
            )
        assert (await session.call("pid")).status == 404


async def test_a_process_that_is_killed_ends_its_calls_and_others_go_on() -> None:
    async with piped(owner=by_name) as (port, _):
        ann, bob = (RawSession(port, MODERN, extra={"x-user": name}) for name in ("ann", "bob"))
        (first, _), (second, _) = await pid(ann), await pid(bob)
        waiting = await ann.call("count", n=1000, delay=0.01)
        await waiting.take(1)
        os.kill(first, 9)
        assert "by signal 9" in (await told(waiting))["error"]["message"]
        assert (await pid(ann))[0] != first
        assert (await pid(bob))[0] == second


async def test_what_is_no_message_goes_to_the_log_and_harms_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    async with piped() as (port, _):
        session = await RawSession.open(port)
        assert await text(await session.call("garbage")) == "after garbage"
        assert "this is no message" in caplog.text
        assert "[1, 2]" in caplog.text


async def test_a_flood_of_errors_is_some_lines_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with piped() as (port, _):
        session = await RawSession.open(port)
        assert await text(await session.call("flood", lines=20_000)) == "after a flood"
        assert 0 < caplog.text.count("of a flood") <= 100


async def test_what_a_process_was_told_in_confidence_is_not_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    async with piped(env={"TOKEN": "very-secret"}) as (port, upstream):
        session = await RawSession.open(port)
        await text(await session.call("secret"))
        await until(lambda: "the token is ***, Authorization: Bearer ***" in caplog.text)
        assert "very-secret" not in caplog.text + repr(upstream.options)


async def test_a_line_over_the_limit_ends_the_process_and_its_calls() -> None:
    async with piped(max_line_bytes=10_000) as (port, _):
        session = await RawSession.open(port)
        answer = await told(await session.call("huge", size=20_000))
        assert "a line of more than 10000 bytes" in answer["error"]["message"]
        big = await session.call("x" * 20_000)
        assert big.status == 413


async def test_a_process_that_cannot_start_is_an_error_and_soon_not_tried_for_a_while(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    async with piped("exit") as (port, upstream):
        session = RawSession(port)
        for _ in range(5):
            response = await session.post("initialize", {"protocolVersion": "2025-11-25"})
            assert response.status == 502
            # It may have ended before the request reached it, and how is not known by then.
            said = (await told(response))["error"]["message"]
            assert "exit status 7" in said or said == "The server's process has ended"
        await until(lambda: upstream.circuit() == State.OPEN.value)
        refused = await session.post("initialize", {"protocolVersion": "2025-11-25"})
        assert (refused.status, "retry-after" in refused.headers) == (503, True)
        assert "I cannot start" in caplog.text


@pytest.mark.parametrize("version", ["2025-11-25", MODERN])
async def test_a_process_that_never_answers_is_given_up_in_the_time_that_was_set(
    version: str,
) -> None:
    async with piped("mute", start_timeout=0.5) as (port, upstream):
        session = RawSession(port, version)
        method = "server/discover" if version == MODERN else "initialize"
        response = await session.post(method, {"protocolVersion": version})
        assert response.status in (502, 504)
        await until(lambda: len(upstream.children) == 0)


async def test_a_process_that_refuses_a_client_is_not_kept() -> None:
    async with piped("refuse") as (port, upstream):
        response = await RawSession(port).post("initialize", {"protocolVersion": "2025-11-25"})
        assert "mcp-session-id" not in response.headers
        assert (await told(response))["error"]["message"] == "not you"
        await until(lambda: len(upstream.children) == 0)


async def test_a_process_that_reads_nothing_is_ended_in_the_time_that_was_set() -> None:
    async with piped("unread", write_timeout=0.5) as (port, _):
        session = await RawSession.open(port)
        waiting = await session.call("silent")
        refused = await session.call("echo", text="x" * 2_000_000)
        assert refused.status == 502
        assert "Interrupted" in (await told(waiting))["error"]["message"]


async def test_one_that_does_not_end_is_killed_with_all_that_it_has_begun() -> None:
    async with piped("stubborn") as (port, _):
        session = await RawSession.open(port)
        process, _ = await pid(session)
        heir = int(await text(await session.call("fork")))
        assert is_alive(heir)
        assert await session.delete() == 200
        await gone(process, heir)


# Bounds.


async def test_at_the_cap_an_idle_process_makes_room_and_a_busy_one_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with piped(max_children=2) as (port, _):
        busy, idle = await RawSession.open(port), await RawSession.open(port)
        kept, _ = await pid(busy)
        waiting = await busy.call("silent")
        # It has been used later than the other one.
        ended, _ = await pid(idle)
        refused = await RawSession(port).post("initialize", {"protocolVersion": "2025-11-25"})
        assert (refused.status, refused.headers["retry-after"]) == (503, "5")
        # As if it had been idle for that long.
        monkeypatch.setattr(pool, "_MAKES_ROOM_AFTER", 0.0)
        await RawSession.open(port)
        await gone(ended)
        assert is_alive(kept)
        waiting.close()


async def test_requests_over_the_cap_of_a_process_are_refused_and_welcome_again() -> None:
    async with piped(max_requests=2) as (port, _):
        session = await RawSession.open(port)
        waiting = [await session.call("silent") for _ in range(2)]
        refused = await session.call("pid")
        assert (refused.status, refused.headers["retry-after"]) == (503, "5")
        for response in waiting:
            response.close()


async def test_an_unused_process_is_ended_and_a_busy_one_is_not() -> None:
    async with piped(idle_seconds=1) as (port, _):
        busy = await RawSession.open(port)
        kept, _ = await pid(busy)
        # From here on; the other one begins to be unused later.
        waiting = await busy.call("silent")
        reaped, _ = await pid(await RawSession.open(port))
        await gone(reaped)
        assert is_alive(kept)
        waiting.close()


# Who may call, and what a process sees.


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "127.0.0.1:1"}, 400),
        ({"host": "LOCALHOST"}, 400),
        ({"host": "evil.example"}, 421),
        ({"origin": "http://localhost:3000"}, 400),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "https://app.example"}, 400),
        ({"host": "[::1]:80"}, 400),
    ],
)
async def test_a_page_of_somebody_else_does_not_reach_a_local_server(
    headers: dict[str, str], status: int
) -> None:
    async with piped(allowed_origins=("https://app.example",)) as (port, _):
        response = await request(port, "POST", headers=headers, body=b"{}")
        assert response.status == status


async def test_where_any_host_will_do_a_page_of_another_one_is_still_refused() -> None:
    async with piped(allowed_hosts=("*",)) as (port, _):
        own = {"host": "mcp.example", "origin": "https://mcp.example"}
        assert (await request(port, "POST", headers=own, body=b"{}")).status == 400
        other = own | {"origin": "https://evil.example"}
        assert (await request(port, "POST", headers=other, body=b"{}")).status == 403


async def test_a_process_inherits_nothing_that_may_be_a_secret_unless_it_is_told_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOMEBODYS_SECRET", "s")
    monkeypatch.setenv("MCP_PERSIST_URL", "postgresql://u:p@h/d")
    for passes in (False, True):
        options = {"env": {"MINE": "1"}, "cwd": str(tmp_path), "pass_environment": passes}
        async with piped(**options) as (port, _):
            session = await RawSession.open(port)
            names, directory = json.loads(await text(await session.call("environment")))
            assert {"MINE", "PATH"} <= set(names)
            assert ("SOMEBODYS_SECRET" in names) == passes
            assert not any("MCP_PERSIST" in name for name in names)
            assert Path(directory) == tmp_path.resolve()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"command": []}, "expected a program"),
        ({"command": ["no-such-program"]}, "no-such-program is no program"),
        ({"command": ["./no-such"]}, "looked for in that place"),
        ({"command": ["sh"], "stdio": StdioOptions(cwd="/nowhere")}, "/nowhere is no directory"),
        ({"command": ["sh"], "upstream": "http://x"}, "not both"),
        ({}, "an upstream or a command"),
    ],
)
def test_a_command_that_cannot_be_run_is_said_before_anything_is_served(
    given: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigurationError, match=said):
        proxy_app(**given, url="events.db")


@pytest.mark.parametrize(
    "changed",
    [{"mcp-method": "tools/list"}, {"mcp-name": "other"}, {"mcp-protocol-version": "2030-01-01"}],
)
async def test_headers_that_do_not_say_what_the_body_says_are_refused(
    changed: dict[str, str],
) -> None:
    async with piped() as (port, _):
        headers = RawSession(port, MODERN).headers() | {
            "mcp-method": "tools/call",
            "mcp-name": "pid",
        }
        meta: dict[str, Any] = {"io.modelcontextprotocol/clientCapabilities": {}}
        meta["io.modelcontextprotocol/protocolVersion"] = MODERN
        params = {"name": "pid", "_meta": meta}
        message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
        body = json.dumps(message).encode()
        assert (await request(port, "POST", headers=headers, body=body)).status == 200
        response = await request(port, "POST", headers=headers | changed, body=body)
        assert response.status == 400
        assert (await told(response))["error"]["code"] == -32020


async def test_callers_who_are_refused_leave_nothing_behind() -> None:
    children = Children([sys.executable], StdioOptions(max_children=0))
    for number in range(50):
        with pytest.raises(BusyError):
            await children.of(f"caller {number}")
    await asyncio.sleep(0)
    assert not children._owned
    await children.aclose()
