"""G7: a cursor of somebody else is answered exactly like an unknown one, and the application's own
authentication is asked before anything is replayed."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.authentication import AuthCredentials, AuthenticationBackend, BaseUser, SimpleUser
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.requests import HTTPConnection
from starlette.routing import Mount

from mcp_persist_middleware import PersistMiddleware
from mcp_persist_middleware.protocol import event_id
from tests.support.scripted import Call, Scripted, persisted, serving
from tests.support.session import RawSession
from tests.support.sse_client import Response

UNKNOWN = event_id.EventIds.of(b"\x01" * 16, event_id.StreamKind.POST, 2).at(1, 1).decode()


async def two(call: Call) -> None:
    """One event, then the answer."""
    await call.head()
    await call.progress(1)
    await call.result("secret result")


async def asked(session: RawSession, cursor: str) -> tuple[int, list[tuple[str, str]], str]:
    """The whole answer to a cursor, without what differs between any two answers."""
    response = await session.get(cursor)
    headers = [(name, value) for name, value in response.raw_headers if name != "date"]
    body = (await response.body()).decode()
    response.close()
    return response.status, headers, body


async def stream_of(session: RawSession) -> str:
    """The id of the first event of a finished call."""
    response: Response = await session.call("two")
    frames = await response.take(2)
    assert frames[1].is_response
    assert frames[0].id is not None
    return frames[0].id


@pytest.mark.parametrize(
    ("mine", "other"),
    [
        ({"authorization": "Bearer a"}, {"authorization": "Bearer b"}),
        ({"x-api-key": "a"}, {"x-api-key": "b"}),
        ({"authorization": "Bearer a"}, {}),
        ({}, {"x-auth-token": "b"}),
        ({"authorization": "Bearer a", "x-api-key": "1"}, {"authorization": "Bearer a"}),
    ],
)
async def test_a_cursor_of_another_caller_is_an_unknown_one(
    store: str, mine: dict[str, str], other: dict[str, str]
) -> None:
    async with persisted(Scripted(two=two), store, store_timeout=1.0) as (port, _):
        owner = await RawSession.open(port, extra=mine)
        cursor = await stream_of(owner)
        thief = await RawSession.open(port, extra=other)
        thief.session_id = owner.session_id
        assert await asked(thief, cursor) == await asked(thief, UNKNOWN)
        assert "secret result" in (await asked(owner, cursor))[2]


async def test_a_cursor_of_another_session_path_or_namespace_is_an_unknown_one(store: str) -> None:
    app = Starlette(
        routes=[Mount("/a", Scripted(two=two)), Mount("/b", Scripted(two=two))],
        middleware=[Middleware(PersistMiddleware, url=store, store_timeout=1.0)],
    )
    async with serving(app) as port:
        owner = await RawSession.open(port, path="/a/mcp")
        cursor = await stream_of(owner)
        another = await RawSession.open(port, path="/a/mcp")
        elsewhere = await RawSession.open(port, path="/b/mcp")
        elsewhere.session_id = owner.session_id
        for session in (another, elsewhere):
            assert await asked(session, cursor) == await asked(session, UNKNOWN)
        assert "secret result" in (await asked(owner, cursor))[2]
    async with persisted(Scripted(two=two), store, store_timeout=1.0, namespace="n") as (port, _):
        owner.port, owner.path = port, "/a/mcp"
        assert await asked(owner, cursor) == await asked(owner, UNKNOWN)


async def test_a_refused_caller_gets_the_applications_own_answer(store: str) -> None:
    app = Scripted(two=two)
    async with persisted(app, store) as (port, _):
        session = await RawSession.open(port)
        cursor = await stream_of(session)
        app.allow = lambda _: False
        for given in (cursor, UNKNOWN, "not-an-id-of-ours"):
            response = await session.get(given)
            assert response.status == 401
            assert response.headers["www-authenticate"] == 'Bearer realm="scripted"'
            assert await response.body() == b"who are you?"


async def test_the_probe_never_carries_the_cursor_and_runs_nothing(store: str) -> None:
    app = Scripted(two=two)
    async with persisted(app, store) as (port, _):
        session = await RawSession.open(port)
        cursor = await stream_of(session)
        calls = len(app.calls)
        await asked(session, cursor)
        probe = app.requests[-1]
        assert probe["method"] == "POST"
        assert b"last-event-id" not in dict(probe["headers"])
        assert len(app.calls) == calls


class Person(SimpleUser):
    """A user of a client application, as the SDKs leave one in the scope."""

    def __init__(self, client: str, subject: str | None) -> None:
        super().__init__(client)
        self.access_token = type(
            "Token", (), {"client_id": client, "subject": subject, "claims": {"iss": "issuer"}}
        )()


class Tokens(AuthenticationBackend):
    """`Bearer <client>.<subject>.<serial>`; no subject when that part is empty."""

    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, BaseUser] | None:
        found = re.fullmatch(r"Bearer (\w+)\.(\w*)\.(\w+)", conn.headers.get("authorization", ""))
        return (AuthCredentials(), Person(found[1], found[2] or None)) if found else None


@pytest.mark.parametrize(
    ("mine", "later", "is_mine"),
    [
        ("app.ann.1", "app.ann.2", True),  # a rotated token of the same person
        ("app.ann.1", "app.bob.1", False),  # two people share a client id
        ("app.ann.1", "other.ann.1", False),
        ("app..1", "app..1", True),
        ("app..1", "app..2", False),  # a client id alone names nobody
    ],
)
async def test_a_stream_belongs_to_the_person_whom_the_application_authenticated(
    store: str, mine: str, later: str, is_mine: bool
) -> None:
    app = AuthenticationMiddleware(Scripted(two=two), backend=Tokens())
    async with persisted(app, store, store_timeout=1.0) as (port, _):
        session = await RawSession.open(port, extra={"authorization": f"Bearer {mine}"})
        cursor = await stream_of(session)
        session.extra["authorization"] = f"Bearer {later}"
        assert ("secret result" in (await asked(session, cursor))[2]) is is_mine


async def test_the_principal_setting_names_the_caller(store: str) -> None:
    def principal(connection: HTTPConnection) -> str | None:
        return connection.headers.get("x-user")

    async with persisted(Scripted(two=two), store, store_timeout=1.0, principal=principal) as (
        port,
        _,
    ):
        session = await RawSession.open(port, extra={"x-user": "ann", "authorization": "1"})
        cursor = await stream_of(session)
        session.extra["authorization"] = "2"
        assert "secret result" in (await asked(session, cursor))[2]
        session.extra["x-user"] = "bob"
        assert await asked(session, cursor) == await asked(session, UNKNOWN)


async def test_a_deleted_session_is_unknown(store: str) -> None:
    async with persisted(Scripted(two=two), store, store_timeout=1.0) as (port, _):
        session = await RawSession.open(port)
        cursor = await stream_of(session)
        assert await session.delete() == 200
        assert await asked(session, cursor) == await asked(session, UNKNOWN)


async def test_a_rotated_credential_that_nobody_resolves_is_warned_of_once(
    store: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with persisted(Scripted(two=two), store) as (port, _):
        for token in ("t-one", "t-two"):
            session = await RawSession.open(port, extra={"authorization": f"Bearer {token}"})
            await stream_of(session)
    warned = [record for record in caplog.records if "principal=" in record.getMessage()]
    assert len(warned) == 1
    assert "t-one" not in caplog.text


Early = Callable[[Call], Awaitable[None]]


@pytest.mark.parametrize("why", ["slow introspection", "untrusted", "origin", "initialize", "json"])
async def test_no_answer_is_spoiled_by_an_early_start(store: str, why: str) -> None:
    async def late(call: Call) -> None:
        await asyncio.sleep(0.4)
        await call.json(403, {"why": "not you"})

    app: Any = Scripted(late=late, two=two)
    extra = {"authorization": "Bearer a"}

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        if b"x-slow" in dict(scope.get("headers", [])):
            await asyncio.sleep(0.4)
            await send({"type": "http.response.start", "status": 403, "headers": []})
            await send({"type": "http.response.body", "body": b""})
        else:
            await app(scope, receive, send)

    async with persisted(slow, store, prime_after=0.1) as (port, _):
        session = await RawSession.open(port, extra=extra)
        response = await session.call("late")
        # Without a reason against it the stream is opened, and the status becomes an error.
        assert response.status == 200
        assert (await response.take(1))[0].message["error"]["data"]["status"] == 403
        match why:
            case "slow introspection":
                session.extra["x-slow"] = "1"
            case "untrusted":
                session.extra["authorization"] = "Bearer b"
            case "origin":
                session.extra["origin"] = "http://localhost"
            case "initialize":
                app.tools["two"] = late
                params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {}}
                real = app._answer

                async def answer(call: Call) -> None:
                    await (late(call) if call.request["method"] == "initialize" else real(call))

                app._answer = answer
                response = await session.post("initialize", params)
                assert response.status == 403
                return
            case "json":

                async def plain(call: Call) -> None:
                    await call.json(200, {"jsonrpc": "2.0", "id": call.request["id"], "result": {}})

                app.tools["two"] = plain
                await (await session.call("two")).body()
        response = await session.call("late")
        assert response.status == 403
