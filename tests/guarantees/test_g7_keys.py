"""G7: what names a stream or a session is taken whole, and nothing in it is believed."""

import itertools
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Mount

from mcp_persist_middleware import PersistMiddleware
from mcp_persist_middleware.protocol import event_id
from tests.faults.workers import Store
from tests.guarantees.test_g6_sessions_live_on import value
from tests.guarantees.test_g7_no_leaks import asked, stream_of, two
from tests.support.scripted import Scripted, persisted, serving
from tests.support.session import RawSession
from tests.support.stateful import Stateful


async def test_a_call_cannot_be_read_as_if_it_were_the_sessions_stream(store: str) -> None:
    """The kind in an id decides how the application is asked: a GET is refused by fewer."""
    async with persisted(Scripted(two=two), store, store_timeout=1.0) as (port, _):
        session = await RawSession.open(port)
        cursor = await stream_of(session)
        position = event_id.parse(cursor)
        assert position is not None
        ids = event_id.EventIds.of(position.stream, event_id.StreamKind.GET, None)
        forged = ids.at(position.epoch, position.sequence).decode()
        assert "secret result" not in (await asked(session, forged))[2]
        assert "secret result" in (await asked(session, cursor))[2]


@pytest.mark.parametrize("restarted", [False, True])
async def test_a_session_of_one_path_is_unknown_to_another(store: str, *, restarted: bool) -> None:
    def mounted() -> tuple[Any, list[Stateful]]:
        apps = [Stateful(), Stateful()]
        apps[1]._ids = itertools.count(100)
        routes = [Mount(f"/{name}", app) for name, app in zip("ab", apps, strict=True)]
        outer = [Middleware(PersistMiddleware, url=store, drain_seconds=0.1)]
        return Starlette(routes=routes, middleware=outer), apps

    app, apps = mounted()
    async with serving(app) as port:
        session = await RawSession.open(port, path="/a/mcp")
        if not restarted:
            await _only_in_a(session, apps)
    if restarted:
        app, apps = mounted()
        async with serving(app) as port:
            session.port = port
            await _only_in_a(session, apps)


async def _only_in_a(session: RawSession, apps: list[Stateful]) -> None:
    session.path = "/b/mcp"
    assert await value(session) == 404
    assert not apps[1].sessions, "nothing was brought back"
    session.path = "/a/mcp"
    assert await value(session) == 1


async def test_a_session_of_one_namespace_is_unknown_to_another(store: str) -> None:
    async with persisted(Stateful(), store, namespace="one") as (port, _):
        session = await RawSession.open(port)
    app = Stateful()
    async with persisted(app, store, namespace="two") as (port, _):
        session.port = port
        assert await value(session) == 404
        assert not app.sessions, "nothing was brought back"
    async with persisted(app, store, namespace="one") as (port, _):
        session.port = port
        assert await value(session) == 1


async def test_what_the_store_says_of_a_credential_is_good_in_this_store_alone(
    tmp_path: Path,
) -> None:
    """Or a list of hashes of known keys would tell whose streams these are."""
    found = []
    for name in ("one", "two"):
        path = tmp_path / f"{name}.db"
        async with persisted(Stateful(), f"sqlite+aiosqlite:///{path}") as (port, _):
            await RawSession.open(port, extra={"x-api-key": "sesame"})
        found += Store(path).rows("SELECT principal FROM mcp_session")
    assert found[0] != found[1]
    assert all(principal for (principal,) in found)
