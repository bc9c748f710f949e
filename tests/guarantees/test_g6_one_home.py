"""G6 where it could go wrong quietly: a session is brought back once, by a request that needs it,
and not after its time."""

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from mcp_persist_middleware import PersistMiddleware
from mcp_persist_middleware.errors import StoreError
from mcp_persist_middleware.stores.sql.sessions import SqlSessions
from tests.guarantees.test_g6_sessions_live_on import value
from tests.support.homes import on, workers
from tests.support.scripted import persisted, serving, until
from tests.support.session import RawSession
from tests.support.stateful import Stateful


async def test_of_two_workers_that_bring_a_session_back_at_once_one_is_its_home(
    tmp_store: str,
) -> None:
    async with persisted(Stateful(), tmp_store) as (port, _):
        session = await RawSession.open(port)
    # Each is still at its `initialize` when the other one begins with its own.
    apps = [Stateful(wait=0.3), Stateful(wait=0.3)]
    async with (
        persisted(apps[0], tmp_store, retry_ms=1000) as (one, _),
        persisted(apps[1], tmp_store, retry_ms=1001) as (two, _),
    ):
        clients = [RawSession(port, session_id=session.session_id) for port in (one, two)]
        values = await asyncio.gather(*(value(client) for client in clients * 5))
        assert sorted(values) == list(range(1, 11)), "one memory has counted them all"
        assert all(next(app._ids) == 2 for app in apps), "both have tried"
        assert sorted(len(app.sessions) for app in apps) == [0, 1], "what nobody uses is ended"


async def test_a_resume_brings_nothing_back(tmp_store: str) -> None:
    async with persisted(Stateful(), tmp_store) as (port, _):
        session = await RawSession.open(port)
        response = await session.call("ask")
        (question,) = await response.take(1)
        response.reset()
    app = Stateful()
    async with persisted(app, tmp_store) as (port, _):
        session.port = port
        resumed = await session.get(question.id)
        (end,) = await resumed.take(1)
        assert "error" in end.message
        assert not app.sessions
        assert await value(session) == 1


async def test_a_session_whose_time_is_over_does_not_come_back_before_it_is_purged(
    tmp_store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def late(_: SqlSessions, __: float, ___: int) -> int:
        return 0

    monkeypatch.setattr(SqlSessions, "purge", late)
    async with persisted(Stateful(), tmp_store) as (port, _):
        session = await RawSession.open(port)
    with sqlite3.connect(tmp_path / "events.db") as file:
        file.execute("UPDATE mcp_session SET expires_at = expires_at - 100000")
    file.close()
    app = Stateful()
    async with persisted(app, tmp_store) as (port, _):
        session.port = port
        assert await value(session) == 404
        assert not app.sessions


async def test_of_fifty_first_requests_one_alone_speaks_to_the_application(tmp_store: str) -> None:
    async with persisted(Stateful(), tmp_store) as (port, _):
        session = await RawSession.open(port)
    app = Stateful(wait=0.1)
    async with persisted(app, tmp_store) as (port, _):
        session.port = port
        await asyncio.gather(*(value(session) for _ in range(50)))
        assert next(app._ids) == 2, "one initialize"


async def test_a_request_that_is_late_when_its_session_has_just_moved_follows_it(
    tmp_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with workers(tmp_store, *(Stateful(name=name) for name in "abc")) as (
        home,
        next_home,
        asked,
    ):
        session = await RawSession.open(home.port)
        go, relay, put = asyncio.Event(), asked.parts.relay, asyncio.Event()

        def busy(claim: Any) -> Any:
            async def late(*given: Any) -> Any:
                await go.wait()
                return await claim(*given)

            return late

        def noted(put_to: Any) -> Any:
            async def put_now(*given: Any) -> Any:
                done = await put_to(*given)
                (go if put.is_set() else put).set()
                return done

            return put_now

        for worker in (home, next_home):
            inbox = worker.parts.exchanges.log.inbox
            monkeypatch.setattr(inbox, "claim", busy(inbox.claim))
        inbox, patience = asked.parts.exchanges.log.inbox, relay._patience
        monkeypatch.setattr(inbox, "put", noted(inbox.put))
        relay._patience = 0.5
        call = asyncio.create_task(value(on(session, asked)))
        await put.wait()
        relay._patience = patience
        await home.shut_down(next_home)
        assert await value(on(session, next_home)) == 1
        assert await call == 2


@pytest.mark.parametrize("how", ["it fails", "its client is cut off"])
async def test_a_session_that_does_not_come_back_after_all_is_not_left_in_the_application(
    tmp_store: str, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    async with persisted(Stateful(), tmp_store) as (port, _):
        session = await RawSession.open(port)
    app, moving, requests = Stateful(), asyncio.Event(), list[asyncio.Task[Any]]()

    async def move(*_: Any) -> bool:
        moving.set()
        if how == "it fails":
            raise StoreError(url="x", reason="no answer")
        await asyncio.Event().wait()
        return False

    async def noted(scope: Any, receive: Any, send: Any) -> None:
        requests.extend(filter(None, [asyncio.current_task()]))
        await outer(scope, receive, send)

    outer = PersistMiddleware(app, url=tmp_store)
    async with serving(noted) as port:
        session.port = port
        monkeypatch.setattr(SqlSessions, "move", move)
        asking = asyncio.create_task(value(session))
        await moving.wait()
        assert app.sessions or how == "it fails"
        if how != "it fails":
            requests[-1].cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await until(lambda: not app.sessions)
