"""What an application answers in a session it answers with us: in a fresh one, in one that came
back, to its owner and to a stranger."""

import asyncio
import json
from typing import Any

import pytest

from mcp_persist_middleware.errors import StoreError
from mcp_persist_middleware.stores.sqlite.inbox import SqliteSessions
from tests.support.scripted import persisted
from tests.support.session import MODERN, RawSession
from tests.support.squeezed import Squeezed
from tests.support.sse_client import Response, request
from tests.support.stateful import Message, Receive, Send, State, Stateful, _json


class Picky(Stateful):
    """As servers are found: 404 for an unknown method, 404 for a stranger, and an `initialize`
    that begins a session whatever else it carries. `seen` is every request with its session as the
    application knows it; `big` is refused with 300 KB; `gone` answers 404 and has run."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.seen: list[tuple[str, str]] = []
        self.owners: dict[str, str] = {}
        self.runs = 0
        self.bodies: list[int] = []

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            raise NotImplementedError("no lifespan")
        headers = {k.decode(): v.decode() for k, v in scope["headers"]}
        session, user = headers.get("mcp-session-id", ""), headers.get("authorization", "")
        self.seen.append((scope["method"], session))
        if self.owners.get(session, user) != user:
            await _json(send, 404, {"error": "no such session"})
            return
        if scope["method"] in ("PUT", "OPTIONS", "HEAD") or "*/*" in headers.get("accept", ""):
            known = session in self.sessions
            await _json(send, 405 if known else 404, {"session": session, "known": known})
            return
        if scope["method"] == "POST":
            body = b""
            while True:
                message = await receive()
                assert message["type"] == "http.request"
                body += message.get("body", b"")
                if not message.get("more_body", False):
                    break
            self.bodies.append(len(body))
            assert headers.get("content-length", str(len(body))) == str(len(body))

            async def again() -> Message:
                return {"type": "http.request", "body": body, "more_body": False}

            await super().__call__(scope, again, send)
            for each in self.sessions.keys() - self.owners.keys():
                self.owners[each] = user
        else:
            await super().__call__(scope, receive, send)

    async def _message(self, state: State, message: Message, scope: Message, send: Send) -> None:
        match message:
            case {"method": "resources/list", "id": request_id}:
                error = {"code": -32601, "message": "no such method"}
                await _json(send, 404, {"jsonrpc": "2.0", "id": request_id, "error": error})
            case {"method": "tools/call", "params": {"name": "gone"}}:
                self.runs += 1
                await _json(send, 404, {"error": "what session?"})
            case {"method": "tools/call", "params": {"name": "big"}}:
                await _json(send, 404, {"error": "x" * 300_000})
            case _:
                await super()._message(state, message, scope, send)


async def value(session: RawSession) -> Any:
    """How many calls the session has had, or the status of a refusal."""
    response = await session.call("count")
    if response.status != 200:
        return response.status
    (frame,) = await response.take(1)
    return frame.message["result"]["value"]


async def said(response: Response) -> tuple[int, bytes]:
    try:
        return response.status, await response.body()
    finally:
        response.close()


async def test_404_for_an_unknown_method_costs_a_session_nothing(tmp_store: str) -> None:
    app = Picky()
    async with persisted(app, tmp_store) as (port, _):
        session = await RawSession.open(port)
        assert await value(session) == 1
        status, body = await said(await session.post("resources/list"))
        assert (status, json.loads(body)["error"]["code"]) == (404, -32601)
        assert [await value(session), await value(session)] == [2, 3]
        assert len(app.sessions) == 1


async def test_a_session_of_an_application_that_compresses_comes_back(tmp_store: str) -> None:
    async with persisted(Squeezed(Picky()), tmp_store) as (port, _):
        session = await RawSession.open(port, extra={"accept-encoding": "gzip"})
        assert (await session.post("logging/setLevel", {"level": "error"})).status == 200
        assert await value(session) == 1
    app = Picky()
    async with persisted(Squeezed(app), tmp_store) as (port, _):
        session.port = port
        # After a restart, and when the application has forgotten it.
        for _ in range(2):
            assert await value(session) == 1
            (state,) = app.sessions.values()
            assert state.said[:3] == [
                "initialize",
                "notifications/initialized",
                "logging/setLevel",
            ]
            app.sessions.clear()


async def test_404_for_every_notification_proves_nothing(tmp_store: str) -> None:
    class Deaf(Picky):
        """Knows no notification but `initialized`: the question of ours is no use here."""

        async def _message(
            self, state: State, message: Message, scope: Message, send: Send
        ) -> None:
            if message.get("method") == "notifications/cancelled":
                await _json(send, 404, {"error": "what session?"})
            else:
                await super()._message(state, message, scope, send)

    app = Deaf()
    async with persisted(app, tmp_store) as (port, _):
        session = await RawSession.open(port)
        assert await value(session) == 1
        assert (await session.post("resources/list")).status == 404
        assert await value(session) == 2
        assert len(app.sessions) == 1


async def test_a_request_that_was_answered_404_is_not_run_a_second_time(tmp_store: str) -> None:
    app = Picky()
    async with persisted(app, tmp_store) as (port, _):
        session = await RawSession.open(port)
        assert await said(await session.call("gone")) == (404, b'{"error": "what session?"}')
        assert app.runs == 1


@pytest.mark.parametrize("restarted", [False, True])
async def test_what_a_stranger_is_refused_changes_nothing_of_the_owners(
    tmp_store: str, *, restarted: bool
) -> None:
    async with persisted(Picky(), tmp_store) as (port, _):
        owner = await RawSession.open(port, extra={"authorization": "Bearer u1"})
    app = Picky()
    # Nobody waits long for a cursor that is young and unknown.
    async with persisted(app, tmp_store, store_timeout=1.0) as (port, _):
        owner.port = port
        if not restarted:
            owner = await RawSession.open(port, extra={"authorization": "Bearer u1"})
        asking = await owner.call("ask")
        (question,) = await asking.take(1)
        stranger = RawSession(port, session_id=owner.session_id)
        stranger.extra = {"authorization": "Bearer u2"}
        for response in (
            await stranger.post("ping"),
            await stranger.call("count"),
            await stranger.get(question.id),
            await stranger.get(),
        ):
            assert response.status in (200, 404)
            response.close()
        assert await stranger.delete() == 404
        reply = {"jsonrpc": "2.0", "id": question.message["id"], "result": "accept"}
        body, headers = json.dumps(reply).encode(), owner.headers()
        assert (await request(port, "POST", headers=headers, body=body)).status == 202
        (answer,) = await asking.take(1)
        assert answer.message["result"]["value"] == "accept"
        assert len(app.sessions) == 1


async def test_a_session_that_is_forgotten_comes_back_for_its_owner_alone(tmp_store: str) -> None:
    app = Picky()
    async with persisted(app, tmp_store) as (port, _):
        owner = await RawSession.open(port, extra={"authorization": "Bearer u1"})
        stranger = RawSession(port, session_id=owner.session_id)
        stranger.extra = {"authorization": "Bearer u2"}
        app.sessions.clear()
        assert (await stranger.call("count")).status == 404
        assert not app.sessions
        assert await value(owner) == 1


async def test_after_a_restart_strangers_cost_the_application_no_session(tmp_store: str) -> None:
    async with persisted(Picky(), tmp_store) as (port, _):
        owner = await RawSession.open(port, extra={"authorization": "Bearer u1"})
    app = Picky()
    async with persisted(app, tmp_store) as (port, _):
        stranger = RawSession(port, session_id=owner.session_id)
        stranger.extra = {"authorization": "Bearer u2"}
        statuses = await asyncio.gather(*(said(await_) for await_ in [
            await stranger.post("ping") for _ in range(30)
        ]))  # fmt: skip
        assert {status for status, _ in statuses} == {404}
        assert not app.sessions, "nothing was begun for them"
        owner.port = port
        assert await value(owner) == 1
        assert len(app.sessions) == 1


@pytest.mark.parametrize("restarted", [False, True])
async def test_every_request_with_a_session_id_reaches_that_session(
    tmp_store: str, *, restarted: bool
) -> None:
    app = Picky()
    async with persisted(app, tmp_store) as (port, _):
        session = await RawSession.open(port)
        if not restarted:
            await everything_reaches(session, app)
            return
    # The application counts its sessions anew: the first one is somebody else's now.
    app = Picky()
    async with persisted(app, tmp_store) as (port, _):
        other = await RawSession.open(port)
        assert other.session_id != session.session_id
        session.port = port
        await everything_reaches(session, app)
        assert await value(other) == 1


PING = b'{"jsonrpc":"2.0","id":1,"method":"ping"}'
ODD: list[tuple[str, dict[str, str], bytes]] = [
    ("GET", {"accept": "*/*"}, b""),
    ("HEAD", {}, b""),
    ("OPTIONS", {}, b""),
    ("PUT", {}, b"x"),
    ("POST", {"content-type": "application/json, application/json"}, PING),
    ("POST", {"content-type": "application/vnd.mcp+json"}, PING),
    ("POST", {"content-type": "text/plain"}, PING),
    ("POST", {"accept": "*/*"}, PING),
    # Versions that the application may know or not; it goes by the session.
    ("POST", {"mcp-protocol-version": "2099-01-01"}, PING),
    ("POST", {"mcp-protocol-version": MODERN}, PING),
    ("POST", {"mcp-protocol-version": MODERN, "content-type": "text/plain"}, PING),
    ("GET", {"mcp-protocol-version": MODERN}, b""),
    ("PUT", {"mcp-protocol-version": MODERN}, b"x"),
    ("DELETE", {"mcp-protocol-version": MODERN}, b""),
]


async def everything_reaches(session: RawSession, app: Picky) -> None:
    assert await value(session) == 1
    mine = app.seen[-1][1]
    for odd in ODD:
        assert await reached(session, app, odd) == mine, odd


async def reached(session: RawSession, app: Picky, odd: tuple[str, dict[str, str], bytes]) -> str:
    method, more, body = odd
    headers = session.headers(**more)
    response = await request(session.port, method, headers=headers, body=body)
    assert response.status in (200, 405), (odd, response.status)
    asked, found = app.seen[-1]
    assert asked == method, odd
    response.close()
    return found


@pytest.mark.parametrize("modern", ["resume", "pass"])
async def test_a_session_comes_back_for_whatever_is_asked_in_it_first(
    tmp_store: str, modern: str
) -> None:
    async with persisted(Picky(), tmp_store) as (port, _):
        sessions = [await RawSession.open(port) for _ in ODD]
    app = Picky()
    async with persisted(app, tmp_store, modern_streams=modern) as (port, _):
        other = await RawSession.open(port)
        taken = set(app.sessions)
        for session, odd in zip(sessions, ODD, strict=True):
            session.port = port
            found = await reached(session, app, odd)
            assert found not in taken, odd
            taken.add(found)
        assert await value(other) == 1


class Modern(Stateful):
    """Knows 2026-07-28, where the id of a session means nothing."""

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        self.sessions.setdefault("", State())
        if (b"mcp-protocol-version", MODERN.encode()) in scope.get("headers", []):
            without = [pair for pair in scope["headers"] if pair[0] != b"mcp-session-id"]
            scope = {**scope, "headers": without}
        await super().__call__(scope, receive, send)


async def test_an_id_that_means_nothing_waits_for_no_store(
    tmp_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(*_: Any) -> Any:
        raise StoreError(url="events.db", reason="it is away")

    async with persisted(Modern(), tmp_store) as (port, _):
        session = RawSession(port, MODERN, session_id="what-was-long-ago")
        assert await value(session) == 1
        monkeypatch.setattr(SqliteSessions, "find", fails)
        assert await value(session) == 2
        session.version = "2025-11-25"
        assert await value(session) == 503


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("size", [100, 5_000_000])
async def test_a_body_of_any_size_arrives_whole(
    tmp_store: str, size: int, *, restarted: bool
) -> None:
    async with persisted(Picky(), tmp_store) as (port, _):
        session = await RawSession.open(port)
    app = Picky()
    async with persisted(app, tmp_store) as (port, _):
        session.port = port
        if not restarted:
            session = await RawSession.open(port)
        message = {"jsonrpc": "2.0", "id": 1, "method": "ping", "params": {"x": "y" * size}}
        body = json.dumps(message).encode()
        response = await request(port, "POST", headers=session.headers(), body=body)
        assert response.status == 200
        assert app.bodies[-1] == len(body)


@pytest.mark.parametrize("stale", ["", "what-was-long-ago"])
async def test_an_initialize_that_carries_an_old_session_begins_one_that_lasts(
    tmp_store: str, stale: str
) -> None:
    params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "c"}}
    hello = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}
    async with persisted(Picky(), tmp_store) as (port, _):
        session = RawSession(port, session_id=stale)
        body = json.dumps(hello).encode()
        response = await request(port, "POST", headers=session.headers(), body=body)
        assert response.status == 200
        session.session_id = response.headers["mcp-session-id"]
        await session.notify("notifications/initialized")
    async with persisted(Picky(), tmp_store) as (port, _):
        session.port = port
        assert await value(session) == 1


async def test_a_long_refusal_arrives_whole(tmp_store: str) -> None:
    async with persisted(Picky(), tmp_store) as (port, _):
        session = await RawSession.open(port)
        status, body = await said(await session.call("big"))
        assert (status, len(body)) == (404, 300_013)


class Refusing:
    """Refuses everybody with 150,000 bytes, in three parts, and says how many come."""

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            raise NotImplementedError("no lifespan")
        head = [(b"content-length", b"150000"), (b"www-authenticate", b"Bearer")]
        await send({"type": "http.response.start", "status": 403, "headers": head})
        for more in (True, True, False):
            part = {"type": "http.response.body", "body": b"x" * 50_000, "more_body": more}
            await send(part)


async def test_a_long_refusal_of_a_cursor_arrives_whole(tmp_store: str) -> None:
    async with persisted(Stateful(), tmp_store) as (port, _):
        session = await RawSession.open(port)
        cursor = (await (await session.call("count")).take(1))[0].id
    async with persisted(Refusing(), tmp_store) as (port, _):
        session.port = port
        status, body = await said(await session.get(cursor))
        assert (status, len(body)) == (403, 150_000)
