"""G10: what sessions and the relayed requests between workers leave behind has a limit and an
end."""

import asyncio
import json
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from mcp_persist_middleware import Persistence
from mcp_persist_middleware.maintenance import retention
from mcp_persist_middleware.model import RelayRequest, RelayState, SessionKey
from mcp_persist_middleware.persistence import access_to
from mcp_persist_middleware.relay import client, server
from mcp_persist_middleware.sessions import held, rewrite, upkeep
from tests.faults.workers import Store
from tests.support.scripted import Call, Scripted, persisted, until
from tests.support.session import RawSession
from tests.support.stateful import Stateful


@pytest.fixture
def file(tmp_path: Path) -> Store:
    """What the store says."""
    return Store(tmp_path / "events.db")


def count(file: Store, table: str, where: str = "1") -> int:
    """How many rows there are."""
    ((found,),) = file.rows(f"SELECT count(*) FROM mcp_{table} WHERE {where}")
    return int(found)


async def value(session: RawSession) -> Any:
    """What `count` answers."""
    response = await session.call("count")
    (frame,) = await response.take(1)
    response.close()
    return frame.message["result"]["value"]


@asynccontextmanager
async def two_workers(
    store: str, app: Any, **settings: Any
) -> AsyncIterator[tuple[list[int], list[Persistence]]]:
    """Both on this event loop: settings that differ in one value make a worker of its own."""
    async with (
        persisted(app, store, retry_ms=1000, **settings) as (one, first),
        persisted(Stateful(), store, retry_ms=1001, **settings) as (two, second),
    ):
        yield [one, two], [first, second]


async def test_sessions_that_nobody_uses_leave_memory_and_store(store: str, file: Store) -> None:
    times = {"session_ttl": 3, "purge_interval": 0.1}
    async with persisted(Stateful(), store, **times) as (port, persistence):
        known = (await access_to(persistence).parts()).sessions
        for _ in range(20):
            assert await value(await RawSession.open(port)) == 1
        assert len(known._held._all) == count(file, "session") == 20
        every = known._held
        await until(
            lambda: not (every._all or every._by_inner or every.touched or known.revivals._locks)
        )
        await until(lambda: count(file, "session") == 0)


async def test_a_session_with_a_call_or_two_is_kept_briefly_and_one_that_is_used_for_long(
    store: str, file: Store
) -> None:
    async with persisted(Stateful(), store, purge_interval=0.05) as (port, _):
        session, listener = await RawSession.open(port), await RawSession.open(port)

        def left(of: RawSession) -> float:
            sql = "SELECT expires_at FROM mcp_session WHERE id = ?"
            return float(file.rows(sql, of.session_id or "")[0][0]) - time.time()

        for _ in range(2):
            before = left(session) + time.time()
            assert await value(session) > 0
            await until(lambda: left(session) + time.time() > before + 0.01)
            assert 500 < left(session) <= 600
        for _ in range(3):
            await value(session)
        await until(lambda: left(session) > 80_000)
        assert 500 < left(listener) <= 600
        (await listener.get()).close()
        await until(lambda: left(listener) > 80_000)


async def test_of_one_callers_sessions_the_oldest_idle_one_makes_room(
    store: str, file: Store
) -> None:
    async with persisted(Stateful(), store, max_sessions=3) as (port, _):
        first = await RawSession.open(port)
        # A cookie that is another one with each request makes nobody somebody else.
        cookies = ({"cookie": f"sid={number}"} for number in range(2))
        others = [await RawSession.open(port, extra=cookie) for cookie in cookies]
        assert await value(first) == 1
        stranger = await RawSession.open(port, extra={"authorization": "Bearer else"})
        late = await RawSession.open(port)
        kept = {row[0] for row in file.rows("SELECT id FROM mcp_session")}
        assert kept == {s.session_id for s in (first, others[1], stranger, late)}
        assert await value(others[0]) == 1, "the application still has it"
    async with persisted(Stateful(), store, max_sessions=3) as (port, _):
        for session, expected in ((first, 1), (late, 1), (others[0], 404)):
            session.port = port
            response = await session.call("count")
            assert response.status == (200 if expected == 1 else 404)
            response.close()


async def test_what_a_client_says_of_itself_is_kept_small(store: str, file: Store) -> None:
    async with persisted(Stateful(), store) as (port, _):
        info = {"name": "n" * 50_000, "version": "1"}
        params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": info}
        session = RawSession(port)
        response = await session.post("initialize", params)
        session.session_id = response.headers["mcp-session-id"]
        response.close()
        ((kept,),) = file.rows("SELECT length(initialize) FROM mcp_session")
        assert kept < 1000
    app = Stateful()
    async with persisted(app, store) as (port, _):
        session.port = port
        assert await value(session) == 1


async def test_no_more_sessions_are_held_than_may_and_the_others_live_on(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held, "_MOST_HELD", 3)
    async with persisted(Stateful(), store) as (port, persistence):
        known = (await access_to(persistence).parts()).sessions
        sessions = [await RawSession.open(port) for _ in range(10)]
        for session in sessions:
            assert await value(session) == 1
            assert len(known._held._all) <= 3


async def test_what_was_used_is_forgotten_when_it_is_written_down(store: str) -> None:
    async with persisted(Stateful(), store, purge_interval=0.1) as (port, persistence):
        session = await RawSession.open(port)
        assert await value(session) == 1
        known = (await access_to(persistence).parts()).sessions
        await until(lambda: not known._held.touched)


async def test_an_initialize_of_any_size_is_served_and_a_long_one_is_not_kept(
    store: str, file: Store
) -> None:
    async with persisted(Stateful(), store) as (port, _):
        await RawSession.open(port)
        assert count(file, "session") == 1
        session = RawSession(port)
        info = {"name": "n" * 300_000, "version": "1"}
        params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": info}
        response = await session.post("initialize", params)
        session.session_id = response.headers["mcp-session-id"]
        response.close()
        assert await value(session) == 1
        assert count(file, "session") == 1


async def test_no_more_subscriptions_are_kept_than_may(
    store: str, file: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rewrite, "_MAX_SUBSCRIPTIONS", 3)
    async with persisted(Stateful(), store) as (port, _):
        session = await RawSession.open(port)
        for number in range(5):
            uri = f"a://{number}"
            assert (await session.post("resources/subscribe", {"uri": uri})).status == 200
        ((kept,),) = file.rows("SELECT subscriptions FROM mcp_session")
        assert kept == '["a://0", "a://1", "a://2"]'


@pytest.mark.parametrize("stream", [False, True])
async def test_what_the_application_refused_is_not_kept(
    store: str, file: Store, stream: bool
) -> None:
    async def refuse(call: Call) -> None:
        message = {"id": call.request["id"], "error": {"code": -32602, "message": "no such"}}
        if stream:
            await call.head()
            await call.progress(1)
            await call.emit(message)
            await call.end()
        else:
            await call.json(200, {"jsonrpc": "2.0", **message})

    class Refusing(Scripted):
        async def _answer(self, call: Call) -> None:
            if call.request.get("method") in ("logging/setLevel", "resources/subscribe"):
                await refuse(call)
            else:
                await super()._answer(call)

    async with persisted(Refusing(), store) as (port, _):
        session = await RawSession.open(port)
        for method, params in [
            ("resources/subscribe", {"uri": "a://" + "x" * 1000}),
            ("logging/setLevel", {"level": "debug"}),
        ]:
            response = await session.post(method, params)
            assert response.status == 200
            await response.body()
            response.close()
        assert file.rows("SELECT subscriptions, level FROM mcp_session") == [("[]", "")]


async def test_what_the_application_agrees_to_on_an_event_stream_is_kept(
    store: str, file: Store
) -> None:
    class Agreeing(Scripted):
        async def _answer(self, call: Call) -> None:
            if call.request.get("method") == "resources/subscribe":
                await call.head()
                await call.progress(1, "x" * 100_000)
                await call.emit({"id": call.request["id"], "result": {}})
                await call.end()
            else:
                await super()._answer(call)

    async with persisted(Agreeing(), store) as (port, _):
        session = await RawSession.open(port)
        response = await session.post("resources/subscribe", {"uri": "a://1"})
        await response.take(2)
        response.close()
        assert file.rows("SELECT subscriptions FROM mcp_session") == [('["a://1"]',)]


async def test_a_sessions_row_has_a_size(store: str, file: Store) -> None:
    async with persisted(Stateful(), store) as (port, _):
        session = await RawSession.open(port)
        for number in range(5):
            uri = f"a://{number}" + "x" * 20_000
            assert (await session.post("resources/subscribe", {"uri": uri})).status == 200
        response = await session.post("resources/subscribe", {"uri": "a://short"})
        assert response.status == 200
        ((kept,),) = file.rows("SELECT subscriptions FROM mcp_session")
        assert len(kept) < 70_000
        assert [uri[:5] for uri in json.loads(kept)] == ["a://0", "a://1", "a://2", "a://s"]


async def test_requests_that_nobody_fetched_and_answers_that_nobody_read_are_purged(
    store: str, file: Store
) -> None:
    async with persisted(Stateful(), store, purge_interval=0.1) as (port, persistence):
        session = await RawSession.open(port)
        log = (await access_to(persistence).context()).log
        home = (await access_to(persistence).context()).member.name
        key = SessionKey("default", "/mcp", session.session_id or "")

        async def put(name: bytes, seconds: float) -> None:
            until_then = time.time() + seconds
            relayed = RelayRequest(name * 16, key, home, 1, until_then, b"{}", sealed=False)
            await log.inbox.put(relayed, 10)

        for name in (b"a", b"b"):
            await put(name, 3600)
        await log.inbox.claim(home, 2, time.time(), time.time() + 0.3)
        await log.inbox.answer(b"a" * 16, home, b"an answer", time.time() + 0.3)
        await put(b"c", 0.3)
        states = [row[0] for row in file.rows("SELECT state FROM mcp_inbox ORDER BY id")]
        assert states == [int(RelayState.REPLIED), int(RelayState.CLAIMED), 0]
        await until(lambda: count(file, "inbox") == 0)


async def test_requests_that_were_read_do_not_pile_up(
    store: str, file: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "_READ_AT_ONCE", 5)
    async with two_workers(store, Stateful()) as (ports, _):
        session = await RawSession.open(ports[0])
        session.port = ports[1]
        for number in range(1, 31):
            assert await value(session) == number
        assert count(file, "inbox") < 10


async def test_a_cookie_that_crossed_from_worker_to_worker_does_not_stay_in_the_store(
    store: str, file: Store
) -> None:
    async def sets(call: Call) -> None:
        await call.head((b"set-cookie", b"user=secret; HttpOnly"))
        await call.result()

    async with two_workers(store, Scripted(sets=sets)) as (ports, _):
        session = await RawSession.open(ports[0])
        session.port = ports[1]
        response = await session.call("sets")
        assert "secret" in response.headers["set-cookie"]
        await response.take(1)
        await until(lambda: count(file, "inbox") == 0)


async def test_no_more_requests_run_at_once_than_may_and_the_others_wait_their_turn(
    store: str, file: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_MOST_RUNNING", 3)
    go_on, running = asyncio.Event(), 0

    async def hold(call: Call) -> None:
        nonlocal running
        running += 1
        await go_on.wait()
        await call.json(200, {"jsonrpc": "2.0", "id": call.request["id"], "result": {}})

    async with two_workers(store, Scripted(hold=hold), prime_after=None) as (ports, _):
        session = await RawSession.open(ports[0])
        session.port = ports[1]
        calls = [asyncio.create_task(session.call("hold")) for _ in range(8)]
        await until(lambda: running == 3 and count(file, "inbox", "state = 0") == 5)
        # They would have been fetched by now.
        with pytest.raises(TimeoutError):
            await until(lambda: running > 3, 0.5)
        go_on.set()
        assert {(await call).status for call in calls} == {200}
        assert running == 8


async def test_no_more_keys_of_other_workers_are_kept_than_may(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "_KEYS", 3)
    async with persisted(Stateful(), store) as (_, persistence):
        parts = await access_to(persistence).parts()
        for number in range(10):
            await parts.relay.can_seal(f"worker-{number}")
        assert len(parts.relay._keys) <= 3


async def test_retention_goes_on_until_nothing_is_left_of_what_has_expired(
    store: str, file: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with persisted(Stateful(), store, ttl=0, purge_interval=3600) as (port, _):
        for _ in range(10):
            assert await value(await RawSession.open(port)) == 1
        await until(lambda: count(file, "stream") >= 10)
    # It looks once at the start, and then not for an hour.
    monkeypatch.setattr(retention, "_FIRST", 3)
    monkeypatch.setattr(upkeep, "_PURGED", 3)
    with sqlite3.connect(file.path) as writable:
        writable.execute("UPDATE mcp_session SET expires_at = 0")
    writable.close()
    async with persisted(Stateful(), store, purge_interval=3600):
        await until(lambda: not (count(file, "stream") or count(file, "event")))
        await until(lambda: count(file, "session") == 0)
