"""Which relayed requests a worker may run: two workers on one event loop."""

import asyncio
import secrets
import sqlite3
import time
from pathlib import Path

import pytest

from mcp_persist_middleware.log.membership.lease import Lease
from mcp_persist_middleware.model import RelayRequest
from mcp_persist_middleware.persistence import access_to
from mcp_persist_middleware.relay import envelope
from mcp_persist_middleware.relay.envelope import RequestEnvelope, StreamResponse
from mcp_persist_middleware.relay.server import RelayServer
from tests.guarantees.test_g10_sessions import two_workers
from tests.multiworker.test_relay import value, waiting
from tests.support.scripted import persisted, until
from tests.support.session import RawSession
from tests.support.stateful import Stateful
from tests.support.stores import Store


async def test_a_worker_that_was_not_seen_alive_of_late_takes_no_request(
    tmp_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its heartbeats do not reach the store: others may have taken its sessions over."""
    app, claim, claiming = Stateful(), RelayServer._claim, set[object]()

    async def told(server: RelayServer, limit: int) -> list[RelayRequest]:
        claiming.add(claimed := object())
        try:
            return await claim(server, limit)
        finally:
            claiming.remove(claimed)

    monkeypatch.setattr(RelayServer, "_claim", told)
    async with two_workers(tmp_store, app) as (ports, (home, _)):
        session = await RawSession.open(ports[0])
        session.port = ports[1]
        assert await value(await session.call("count")) == 1
        lease = (await access_to(home).context()).member.lease
        with monkeypatch.context() as patch:
            patch.setattr(Lease, "is_young", property(lambda self: self is not lease))
            # What was under way may claim it still.
            await until(lambda: not claiming)
            call = asyncio.create_task(session.call("count"))
            await waiting(Store("sqlite", {"url": tmp_store}), 1)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asyncio.shield(call), 1)
            await waiting(Store("sqlite", {"url": tmp_store}), 1)
        assert await value(await call) == 2


async def test_a_request_to_another_generation_of_the_session_is_not_run(
    tmp_store: str, tmp_path: Path
) -> None:
    app = Stateful()
    async with two_workers(tmp_store, app) as (ports, (home, _)):
        session = await RawSession.open(ports[0])
        session.port = ports[1]
        assert await value(await session.call("count")) == 1
        body = b'{"jsonrpc":"2.0","id":9,"method":"tools/call","params":{"name":"count"}}'
        headers = [(k.encode(), v.encode()) for k, v in session.headers().items()]
        scope = {"type": "http", "method": "POST", "path": "/mcp", "headers": headers}
        content = RequestEnvelope(
            scope | {"query_string": b"", "root_path": ""}, body, "default"
        ).pack()
        worker, now = (await access_to(home).context()).member.name, time.time()
        with sqlite3.connect(tmp_path / "events.db") as store:

            def post(generation: int) -> bytes:
                name = secrets.token_bytes(16)
                row = (name, "default", "/mcp", session.session_id, worker, generation, 0)
                marks = ", ".join("?" * 11)
                insert = f"INSERT INTO mcp_inbox VALUES ({marks})"
                store.execute(insert, (*row, now + 60, False, content, b""))
                store.commit()
                return name

            def answer(name: bytes) -> object:
                (found,) = store.execute("SELECT state, reply FROM mcp_inbox WHERE id = ?", (name,))
                return envelope.unpack_reply(found[1]) if found[0] == 2 else None

            other, mine = post(7), post(1)
            await until(lambda: answer(other) is not None and answer(mine) is not None)
            assert isinstance(answer(other), envelope.NotExecuted)
            assert isinstance(answer(mine), StreamResponse), "or this test proves nothing"
        store.close()
        assert await value(await session.call("count")) == 3


async def test_a_request_that_the_next_home_cannot_read_is_sealed_anew_and_moves_nothing(
    tmp_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was sealed for the home before: its sender has it still, and it was not run."""
    apps = [Stateful(), Stateful(), Stateful()]
    secret = {"authorization": "Bearer ann"}
    async with (
        persisted(apps[0], tmp_store, retry_ms=1000) as (first, one),
        persisted(apps[1], tmp_store, retry_ms=1001, session_routing="revive") as (second, _),
        persisted(apps[2], tmp_store, retry_ms=1002) as (third, _),
    ):
        session = await RawSession.open(first, extra=secret)
        lease = (await access_to(one).context()).member.lease
        monkeypatch.setattr(Lease, "is_young", property(lambda self: self is not lease))
        session.port = third
        relayed = asyncio.create_task(session.call("count"))
        await waiting(Store("sqlite", {"url": tmp_store}), 1)
        # Any worker may be configured to take sessions over at once.
        session.port = second
        own = await value(await session.call("count"))
        # Which of them it runs first is nobody's promise.
        assert sorted((own, await value(await relayed))) == [1, 2]
        assert [len(app.sessions) for app in apps] == [1, 1, 0]
