"""G6: a session id lives until it is deleted or expires."""

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from mcp.server.mcpserver import MCPServer
from starlette.middleware.authentication import AuthenticationMiddleware

from mcp_persist_middleware.stores.sql.sessions import SqlSessions
from tests.guarantees.test_g7_no_leaks import Tokens
from tests.support.processes import mcp_server, running
from tests.support.scripted import persisted, until
from tests.support.session import RawSession
from tests.support.sse_client import request
from tests.support.stateful import State, Stateful


async def value(session: RawSession, tool: str = "count") -> Any:
    """What a tool answers, or the status when the call is refused."""
    response = await session.call(tool)
    if response.status != 200:
        return response.status
    (frame,) = await response.take(1)
    return frame.message["result"]["value"]


@pytest.mark.parametrize("server", ["sdk", "fastmcp"])
async def test_a_client_goes_on_in_its_session_after_the_server_was_killed(
    tmp_path: Path, server: str
) -> None:
    process = mcp_server(tmp_path, server=server)
    async with running(process):
        session = await RawSession.open(process.port)
        for _ in range(2):
            await process.kill()
            await process.start()
            frames = await (await session.call("count", n=2, delay=0)).take(3)
            assert [frame.progress for frame in frames] == [1, 2, None]
        assert await session.delete() == 200
        await process.kill()
        await process.start()
        assert (await session.call("count", n=2, delay=0)).status == 404


async def test_of_fifty_first_requests_one_brings_the_session_back(store: str) -> None:
    async with persisted(Stateful(), store) as (port, _):
        session = await RawSession.open(port)
    app = Stateful(wait=0.1)
    async with persisted(app, store) as (port, _):
        session.port = port
        values = await asyncio.gather(*(value(session) for _ in range(50)))
        assert sorted(values) == list(range(1, 51))
        (state,) = app.sessions.values()
        assert state.said == ["initialize", "notifications/initialized"] + ["tools/call"] * 50


async def test_a_session_that_the_application_has_reaped_comes_back(store: str) -> None:
    server = MCPServer("tests", log_level="WARNING")

    @server.tool()
    async def echo(text: str) -> str:
        return text

    app = server.streamable_http_app(session_idle_timeout=1)
    async with persisted(app, store) as (port, _):
        session = await RawSession.open(port)
        await until(lambda: not server.session_manager._server_instances)
        for _ in range(2):
            (frame,) = await (await session.call("echo", text="again")).take(1)
            assert "again" in (frame.data or "")
        assert len(server.session_manager._server_instances) == 1


async def test_400_is_a_forgotten_session_only_where_nothing_else_can_be_wrong(store: str) -> None:
    app = Stateful(unknown=400)
    async with persisted(app, store) as (port, _):
        session = await RawSession.open(port)
        refused = await session.call("bad")
        assert (refused.status, await refused.body()) == (400, b'{"error": "what is this?"}')
        assert await value(session) == 2, "the same session of the application"
        app.sessions.clear()
        assert await value(session) == 1, "another one behind the same id"
        assert (await session.call("bad")).status == 400
        assert await value(session) == 3
        assert len(app.sessions) == 1


@pytest.mark.parametrize("status", [401, 403, 503])
async def test_the_applications_refusal_reaches_the_client_unchanged(
    store: str, status: int
) -> None:
    async with persisted(Stateful(), store) as (port, _):
        session = await RawSession.open(port)
    app = Stateful()
    app.refuse = status
    async with persisted(app, store) as (port, _):
        session.port = port
        response = await session.call("count")
        assert response.status == status
        assert await response.body() == b'{"error": "no more sessions"}'
        app.refuse = None
        assert await value(session) == 1


async def test_a_deleted_session_never_comes_back(store: str) -> None:
    async with persisted(Stateful(), store) as (port, _):
        session = await RawSession.open(port)
        assert await session.delete() == 200
        assert await value(session) == 404
    app = Stateful()
    async with persisted(app, store) as (port, _):
        session.port = port
        assert await value(session) == 404
        # The application gives the very same id to somebody else; it is not the old client's.
        other = await RawSession.open(port)
        assert app.sessions.keys() == {"session-1"}
        assert other.session_id != "session-1"
        assert await value(other) == 1
        assert await value(session) == 404


async def test_sessions_with_the_same_id_of_the_application_are_kept_apart(store: str) -> None:
    async with persisted(Stateful(), store) as (port, _):
        first = await RawSession.open(port)
    async with persisted(Stateful(), store) as (port, _):
        second = await RawSession.open(port)
        first.port = port
        assert [await value(second), await value(second), await value(first)] == [1, 2, 1]
        assert len({first.session_id, second.session_id}) == 2


async def test_a_session_that_nobody_uses_expires(store: str, tmp_path: Path) -> None:
    async with persisted(Stateful(), store, session_ttl=1) as (port, _):
        session = await RawSession.open(port)
    with sqlite3.connect(tmp_path / "events.db") as file:
        file.execute("UPDATE mcp_session SET expires_at = expires_at - 2")
    async with persisted(Stateful(), store, purge_interval=0.05) as (port, _):
        session.port = port
        assert await value(session) == 404
        with sqlite3.connect(tmp_path / "events.db") as file:
            count = "SELECT count(*) FROM mcp_session"
            await until(lambda: file.execute(count).fetchone() == (0,))


async def test_a_session_that_is_used_lives_on_without_a_write_for_each_use(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes, touch = [], SqlSessions.touch

    async def counted(self: SqlSessions, keys: Any, expires_at: float) -> None:
        writes.append(keys)
        await touch(self, keys, expires_at)

    monkeypatch.setattr(SqlSessions, "touch", counted)
    async with persisted(Stateful(), store, purge_interval=3600) as (port, _):
        session = await RawSession.open(port)
        with sqlite3.connect(tmp_path / "events.db") as file:
            expiry = "SELECT expires_at FROM mcp_session"
            (before,) = file.execute(expiry).fetchone()
        for _ in range(30):
            await value(session)
        # Once, perhaps, when retention began.
        assert len(writes) <= 1
    with sqlite3.connect(tmp_path / "events.db") as file:
        assert file.execute(expiry).fetchone()[0] > before, "told at the end"


async def test_another_principal_does_not_get_the_session(store: str) -> None:
    async with persisted(AuthenticationMiddleware(Stateful(), Tokens()), store) as (port, _):
        session = await RawSession.open(port, extra={"authorization": "Bearer app.ann.1"})
    app = Stateful()
    async with persisted(AuthenticationMiddleware(app, Tokens()), store) as (port, _):
        session.port = port
        session.extra["authorization"] = "Bearer app.bob.1"
        assert await value(session) == 404
        assert not app.sessions, "what was made in bob's name is gone"
        session.extra["authorization"] = "Bearer app.ann.2"
        assert await value(session) == 1


async def test_level_and_subscriptions_are_said_again(store: str) -> None:
    async with persisted(Stateful(), store) as (port, _):
        session = await RawSession.open(port)
        for method, params in [
            ("logging/setLevel", {"level": "debug"}),
            ("logging/setLevel", {"level": "error"}),
            ("resources/subscribe", {"uri": "a://1"}),
            ("resources/subscribe", {"uri": "a://2"}),
            ("resources/unsubscribe", {"uri": "a://1"}),
        ]:
            assert (await session.post(method, params)).status == 200
    app = Stateful()
    async with persisted(app, store) as (port, _):
        session.port = port
        assert await value(session) == 1
        (state,) = app.sessions.values()
        assert state.said == [
            "initialize",
            "notifications/initialized",
            "logging/setLevel",
            "resources/subscribe",
            "tools/call",
        ]


async def test_a_session_whose_promises_changed_does_not_come_back(store: str) -> None:
    async with persisted(Stateful(), store) as (port, _):
        session = await RawSession.open(port)
    app = Stateful(tools=False)
    async with persisted(app, store) as (port, _):
        session.port = port
        assert await value(session) == 404
        assert not app.sessions


async def test_a_session_with_many_subscriptions_comes_back_without_waiting_for_each_in_turn(
    store: str,
) -> None:
    class Slow(Stateful):
        """Answers a subscription when so many more are under way, or have been."""

        def __init__(self, together: int) -> None:
            super().__init__()
            self._all = asyncio.Event()
            self._left, self.ids = together, set[Any]()

        async def _message(self, state: State, message: Any, scope: Any, send: Any) -> None:
            if message.get("method") == "resources/subscribe":
                self.ids.add(message["id"])
                self._left -= 1
                if self._left <= 0:
                    self._all.set()
                await self._all.wait()
            await super()._message(state, message, scope, send)

    async with persisted(Slow(1), store) as (port, _):
        session = await RawSession.open(port)
        for number in range(20):
            uri = {"uri": f"a://{number}"}
            assert (await session.post("resources/subscribe", uri)).status == 200
    app = Slow(16)
    async with persisted(app, store) as (port, _):
        session.port = port
        assert await asyncio.wait_for(value(session), 10) == 1
        (state,) = app.sessions.values()
        assert state.said.count("resources/subscribe") == len(app.ids) == 20


@pytest.mark.parametrize(("revive", "expected"), [(False, 404), (lambda _: False, 404), (True, 1)])
async def test_revive_says_who_comes_back(store: str, revive: Any, expected: int) -> None:
    async with persisted(Stateful(), store) as (port, _):
        session = await RawSession.open(port)
    async with persisted(Stateful(), store, revive=revive) as (port, _):
        session.port = port
        assert await value(session) == expected


async def test_the_application_is_told_which_session_it_serves(store: str) -> None:
    async with persisted(Stateful(), store) as (port, _):
        session = await RawSession.open(port)
        told = {"namespace": "default", "session": "session-1"}
        assert await value(session, "tell") == told | {"generation": 1, "revived": False}
    async with persisted(Stateful(), store) as (port, _):
        session.port = port
        assert await value(session, "tell") == told | {"generation": 2, "revived": True}


async def test_an_answer_to_an_earlier_generation_confirms_no_new_question(store: str) -> None:
    async def reply(question: Any, says: str) -> int:
        body = {"jsonrpc": "2.0", "id": question, "result": says}
        response = await session._send(body, session.headers())
        return response.status

    async with persisted(Stateful(), store) as (port, _):
        session = await RawSession.open(port)
        response = await session.call("ask")
        (old,) = await response.take(1)
        assert old.message["id"] == 1
        response.reset()
    app = Stateful()
    async with persisted(app, store) as (port, _):
        session.port = port
        response = await session.call("ask")
        (new,) = await response.take(1)
        assert new.message["id"] != old.message["id"]
        assert new.message["params"]["_meta"]["progressToken"] == new.message["id"]
        (state,) = app.sessions.values()
        # The application's own id is 1 again; the old answer would fit.
        assert await reply(old.message["id"], "yes, delete everything") == 409
        assert await reply("g1:1", "yes") == 409
        assert not state.asked[1].done()
        assert "reply" not in state.said
        assert await reply(new.message["id"], "Ann") == 202
        (answer,) = await response.take(1)
        assert answer.message["result"]["value"] == "Ann"


async def test_a_store_that_cannot_be_asked_is_not_a_session_that_is_unknown(
    store: str, tmp_path: Path
) -> None:
    async with persisted(Stateful(), store) as (port, _):
        session = await RawSession.open(port)
    async with persisted(Stateful(), store, store_timeout=0.3) as (port, _):
        session.port = port
        with sqlite3.connect(tmp_path / "events.db") as file:
            file.execute("ALTER TABLE mcp_session RENAME TO away")
        response = await session.call("count")
        assert response.status == 503
        assert response.headers["retry-after"]
        with sqlite3.connect(tmp_path / "events.db") as file:
            file.execute("ALTER TABLE away RENAME TO mcp_session")
        assert await value(session) == 1


async def test_a_client_that_takes_json_alone_has_a_session_too(store: str) -> None:
    hello = (
        b'{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25"}}'
    )
    headers = {"accept": "application/json", "content-type": "application/json"}
    async with persisted(Stateful(), store) as (port, _):
        await RawSession.open(port)  # The path is known for MCP from here on.
        response = await request(port, "POST", headers=headers, body=hello)
        session = RawSession(port, session_id=response.headers["mcp-session-id"])
    async with persisted(Stateful(), store) as (port, _):
        session.port = port
        assert await value(session) == 1


async def test_a_deletion_that_the_store_did_not_hear_of_is_told_again(
    store: str, tmp_path: Path
) -> None:
    async with persisted(Stateful(), store, purge_interval=0.05) as (port, _):
        session = await RawSession.open(port)
        with sqlite3.connect(tmp_path / "events.db") as file:
            file.execute("ALTER TABLE mcp_session RENAME TO away")
        assert await session.delete() == 503, "it would be alive again after a crash"
        assert await value(session) == 404
        assert await session.delete() == 503
        with sqlite3.connect(tmp_path / "events.db") as file:
            file.execute("ALTER TABLE away RENAME TO mcp_session")
            deleted = "SELECT deleted FROM mcp_session"
            await until(lambda: file.execute(deleted).fetchone() == (1,))
