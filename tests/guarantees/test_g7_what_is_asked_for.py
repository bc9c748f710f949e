"""G7: whom a cookie, a query string or an odd header names is decided by what the application does
without it, in both directions."""

from collections.abc import Callable
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import Response

from mcp_persist_middleware.persistence import access_to
from tests.guarantees.test_g6_sessions_live_on import value
from tests.guarantees.test_g7_no_leaks import UNKNOWN, asked, stream_of, two
from tests.support.scripted import Call, Scripted, persisted
from tests.support.session import RawSession
from tests.support.stateful import Stateful


class Door:
    """Asks everybody for a name, in front of an application that does not."""

    def __init__(self, app: Any, name: Callable[[Request], str | None], status: int = 401) -> None:
        self.app, self.name, self.status = app, name, status
        self.asked: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            name = self.name(Request(scope))
            self.asked.append(name or "")
            if name not in ("ann", "bob"):
                await Response(status_code=self.status)(scope, receive, send)
                return
        await self.app(scope, receive, send)


def cookie(request: Request) -> str | None:
    return request.cookies.get("id")


def query(request: Request) -> str | None:
    return request.query_params.get("key")


def either(request: Request) -> str | None:
    return cookie(request) or query(request)


def device(request: Request) -> str | None:
    return request.headers.get("x-device-token")


Named = tuple[str, dict[str, str]]
DOORS: list[tuple[Callable[[Request], str | None], int, Callable[[str], Named]]] = [
    (cookie, 401, lambda who: ("/mcp", {"cookie": f"id={who}"})),
    (cookie, 302, lambda who: ("/mcp", {"cookie": f"id={who}"})),
    (query, 403, lambda who: (f"/mcp?key={who}", {})),
    (device, 401, lambda who: ("/mcp", {"x-device-token": who})),
    (query, 400, lambda who: (f"/mcp?key={who}", {"cookie": "id=x"})),
]


@pytest.mark.parametrize(("name", "status", "named"), DOORS)
async def test_what_an_application_asks_for_tells_its_callers_apart(
    tmp_store: str,
    name: Callable[[Request], str | None],
    status: int,
    named: Callable[[str], Named],
) -> None:
    (path, ann), (other, bob) = named("ann"), named("bob")
    app = Door(Stateful(), name, status)
    async with persisted(app, tmp_store) as (port, _):
        owner = await RawSession.open(port, path=path, extra=ann)
        door = Door(Scripted(two=two), name, status)
    async with persisted(door, tmp_store, store_timeout=0.3) as (port, _):
        reader = await RawSession.open(port, path=path, extra=ann)
        cursor = await stream_of(reader)
        for _ in range(2):
            thief = RawSession(port, path=other, session_id=reader.session_id, extra=bob)
            assert await asked(thief, cursor) == await asked(thief, UNKNOWN)
            assert "secret result" in (await asked(reader, cursor))[2]
    app = Door(Stateful(), name, status)
    async with persisted(app, tmp_store) as (port, _):
        thief = RawSession(port, path=other, session_id=owner.session_id, extra=bob)
        assert await value(thief) == 404
        assert await thief.delete() == 404
        owner.port = port
        assert await value(owner) == 1


async def test_one_who_comes_by_another_door_is_another(tmp_store: str) -> None:
    """Each of the two alone is enough, so neither is missed when only it is left out."""
    door = Door(Scripted(two=two), either)
    async with persisted(door, tmp_store, store_timeout=0.3) as (port, _):
        owner = await RawSession.open(port, extra={"cookie": "id=ann"})
        cursor = await stream_of(owner)
        thief = RawSession(port, path="/mcp?key=bob", session_id=owner.session_id)
        assert await asked(thief, cursor) == await asked(thief, UNKNOWN)
        assert "secret result" in (await asked(owner, cursor))[2]


async def test_one_caller_who_needs_no_cookie_says_nothing_of_the_others(tmp_store: str) -> None:
    def name(request: Request) -> str | None:
        return request.headers.get("authorization") or cookie(request)

    door = Door(Scripted(two=two), name)
    async with persisted(door, tmp_store, store_timeout=0.3) as (port, _):
        bearer = await RawSession.open(port, extra={"authorization": "ann", "cookie": "id=1"})
        cursor = await stream_of(bearer)
        bearer.extra["cookie"] = "id=2"
        assert "secret result" in (await asked(bearer, cursor))[2]
        owner = await RawSession.open(port, extra={"cookie": "id=ann"})
        cursor = await stream_of(owner)
        thief = RawSession(port, session_id=owner.session_id, extra={"cookie": "id=bob"})
        assert await asked(thief, cursor) == await asked(thief, UNKNOWN)


async def test_a_cookie_that_nobody_asks_for_is_asked_about_once_and_binds_nobody(
    tmp_store: str,
) -> None:
    app = Scripted(two=two)
    async with persisted(app, tmp_store, store_timeout=0.3) as (port, _):
        session = await RawSession.open(port, extra={"cookie": "seen=0"})
        cursor = await stream_of(session)
        asks = []
        for number in range(1, 4):
            session.extra["cookie"] = f"seen={number}"
            session.path = f"/mcp?page={number}"
            before = len(app.requests)
            assert "secret result" in (await asked(session, cursor))[2]
            asks.append(len(app.requests) - before)
    assert asks == [2, 1, 1]


@pytest.mark.parametrize("broken", ["503", "429", "an exception"])
async def test_where_the_application_does_not_say_everything_names_the_caller(
    tmp_store: str, broken: str
) -> None:
    inner, asks = Scripted(two=two), 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal asks
        asks += 1
        if scope["type"] == "http" and b"cookie" not in dict(scope["headers"]):
            if broken == "an exception":
                raise RuntimeError("no cookie")
            await Response(status_code=int(broken))(scope, receive, send)
        else:
            await inner(scope, receive, send)

    async with persisted(app, tmp_store, store_timeout=0.3) as (port, _):
        owner = await RawSession.open(port, extra={"cookie": "id=ann"})
        cursor = await stream_of(owner)
        thief = RawSession(port, session_id=owner.session_id, extra={"cookie": "id=bob"})
        before = asks
        answer = await asked(thief, cursor)
        # However often a young stream is looked for, that is one question for each of the two.
        assert asks - before == 2
        assert answer == await asked(thief, UNKNOWN)
        assert "secret result" in (await asked(owner, cursor))[2]


async def quiet(call: Call) -> None:
    await call.head()
    await call.progress(1)
    await call.watch()


async def test_a_session_stream_is_joined_with_a_newer_cookie_and_by_nobody_else(
    tmp_store: str,
) -> None:
    async with persisted(Scripted(GET=quiet), tmp_store) as (port, _):
        session = await RawSession.open(port, extra={"cookie": "seen=1"})
        first = await session.get()
        assert len(await first.take(1)) == 1
        session.extra["cookie"] = "seen=2"
        second = await session.get()
        assert (second.status, second.headers["content-type"]) == (200, "text/event-stream")
        for response in (first, second):
            response.reset()


async def test_the_session_stream_of_somebody_else_is_not_joined(tmp_store: str) -> None:
    door = Door(Scripted(GET=quiet), cookie)
    async with persisted(door, tmp_store) as (port, persistence):
        session = await RawSession.open(port, extra={"cookie": "id=ann"})
        first = await session.get()
        assert len(await first.take(1)) == 1
        session.extra["cookie"] = "id=bob"
        second = await session.get()
        context = await access_to(persistence).context()
        assert [running.stream.readers for running in context.session_streams.values()] == [1]
        for response in (first, second):
            response.reset()


class Bound:
    """Serves guests as well, and knows each session by the cookie that it began with alone."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.began: dict[bytes, bytes] = {}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        headers = dict(scope.get("headers", ()))
        session, who = headers.get(b"mcp-session-id"), headers.get(b"cookie", b"")

        async def watched(message: Any) -> None:
            given = dict(message.get("headers", ())).get(b"mcp-session-id")
            if given is not None:
                self.began[given] = who
            await send(message)

        if session is not None and self.began.get(session) != who:
            await Response(status_code=404)(scope, receive, send)
        else:
            await self.app(scope, receive, watched)


async def test_who_is_told_that_a_session_is_not_there_reads_nothing_of_it(tmp_store: str) -> None:
    async with persisted(Bound(Scripted(two=two)), tmp_store, store_timeout=0.3) as (port, _):
        owner = await RawSession.open(port, extra={"cookie": "id=ann"})
        cursor = await stream_of(owner)
        for extra in ({"cookie": "id=bob"}, {}):
            thief = RawSession(port, session_id=owner.session_id, extra=extra)
            assert await asked(thief, cursor) == await asked(thief, UNKNOWN)
        assert "secret result" in (await asked(owner, cursor))[2]


async def test_nor_does_it_take_the_session_or_bring_it_back(tmp_store: str) -> None:
    async with persisted(Bound(Stateful()), tmp_store) as (port, _):
        owner = await RawSession.open(port, extra={"cookie": "id=ann"})
        assert await value(owner) == 1
        for extra in ({"cookie": "id=bob"}, {}):
            thief = RawSession(port, session_id=owner.session_id, extra=extra)
            assert await value(thief) == 404
            assert await thief.delete() == 404
        assert await value(owner) == 2
    app = Bound(Stateful())
    async with persisted(app, tmp_store) as (port, _):
        for extra in ({"cookie": "id=bob"}, {}):
            thief = RawSession(port, session_id=owner.session_id, extra=extra)
            assert await value(thief) == 404
            assert await thief.delete() == 404
        assert not app.app.sessions
        owner.port = port
        assert await value(owner) == 1
