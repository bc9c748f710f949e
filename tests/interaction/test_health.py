"""What a worker says of itself to whoever sends it requests: an object, and three pages."""

import asyncio
import contextlib
import json
import signal
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

import pytest
from sqlalchemy import make_url
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from mcp_persist_middleware import Persistence, PersistMiddleware, with_persistence
from mcp_persist_middleware.ops.proxy import UpstreamOptions, proxy_app
from mcp_persist_middleware.persistence import access_to
from mcp_persist_middleware.testing import MemoryLog, Shelf
from tests.interaction.test_bare import without_lifespan
from tests.interaction.test_lifespan import two
from tests.interaction.test_with_persistence import fast, sdk
from tests.support.scripted import Scripted, persisted, serving, until
from tests.support.session import RawSession
from tests.support.sse_client import request
from tests.support.stores import RedisServer, shut_database

HEALTH = {"health_path": "/healthz"}


async def asked(port: int, path: str = "/healthz/ready", method: str = "GET") -> tuple[int, Any]:
    """The status of a page, and its JSON where it is any."""
    response = await request(port, method, path)
    body = b"" if method == "HEAD" else await response.body()
    response.close()
    is_json = response.headers.get("content-type") == "application/json"
    return response.status, json.loads(body) if is_json and body else body


@pytest.fixture(params=["sqlite", "postgres", "postgres and redis"])
def store(
    request: pytest.FixtureRequest, tmp_store: str, new_postgres: Callable[[], str]
) -> dict[str, Any]:
    """The settings that name each kind of store."""
    if request.param == "sqlite":
        return {"url": tmp_store}
    url = make_url(new_postgres()).set(password="hunter2")
    settings = {"url": url.render_as_string(hide_password=False)}
    if request.param == "postgres and redis":
        settings["redis"] = request.getfixturevalue("redis_url")
    return settings


async def test_a_worker_that_can_serve_says_so_with_its_numbers_and_no_secret(
    store: dict[str, Any],
) -> None:
    async with persisted(Scripted(two=two), **store, **HEALTH) as (port, persistence):
        session = await RawSession.open(port)
        await (await session.call("two")).body()
        # Wake-ups and Redis connect beside the start.
        await until(lambda: connected(persistence))
        status, said = await asked(port)
        assert (status, said["status"]) == (200, "ready")
        assert (await asked(port, "/healthz"))[0] == (await asked(port, method="HEAD"))[0] == 200
        health = await persistence.health()
        context = await access_to(persistence).context()
    assert health.is_ready
    assert said["store"] == context.log.name
    assert said["schema"] >= 1
    assert said["queued_events"] == said["degraded_streams"] == said["commit_lag"] == 0
    assert 0 <= said["heartbeat_age"] < context.settings.lease_seconds
    assert 0 <= said["pool_in_use"] <= said["pool_size"]
    is_postgres, has_redis = "postgres" in store["url"], "redis" in store
    assert said.get("wakeups_connected") == (True if is_postgres else None)
    assert said.get("redis_up") == (True if has_redis else None)
    assert said.get("redis_backlog") == (0 if has_redis else None)
    assert "hunter2" not in str(said)


def connected(persistence: Persistence) -> bool:
    log = access_to(persistence)._joined().parts.exchanges.log  # type: ignore[union-attr]
    facts = log.facts()
    return (
        log.wakeups.is_connected is not False
        and facts.redis_up is not False
        and not facts.redis_backlog
    )


async def test_a_postgres_that_is_away_makes_it_unready_for_as_long(
    new_postgres: Callable[[], str],
) -> None:
    url = new_postgres()
    async with persisted(Scripted(two=two), url, **HEALTH, store_timeout=1) as (port, _):
        assert (await asked(port))[0] == 200
        shut_database(url, is_shut=True)
        _, said = await becomes(port, 503)
        assert said["status"] == "not ready"
        assert said["reasons"]
        assert await asked(port, "/healthz/live") == (200, {"status": "live"})
        shut_database(url, is_shut=False)
        await becomes(port, 200)


async def test_whoever_asks_has_redis_looked_at_though_nobody_needs_it(
    tmp_store: str, tmp_path: Path
) -> None:
    server = RedisServer(tmp_path / "redis")
    server.start()
    assert server.process is not None
    async with persisted(Scripted(two=two), tmp_store, redis=server.url(), **HEALTH) as (port, _):
        assert (await asked(port))[1]["redis_up"]
        server.process.send_signal(signal.SIGSTOP)
        try:
            async with asyncio.timeout(15):
                while (answer := await asked(port))[1]["redis_up"]:
                    await asyncio.sleep(0.05)
            assert answer[0] == 200
        finally:
            server.process.send_signal(signal.SIGCONT)
    server.stop()


async def test_a_redis_that_is_away_is_told_and_leaves_it_ready(
    tmp_store: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = RedisServer(tmp_path / "redis")
    server.start()
    settings = {"redis": server.url(), **HEALTH}
    async with persisted(Scripted(two=two), tmp_store, **settings) as (port, persistence):
        await until(lambda: connected(persistence))
        server.stop(signal.SIGKILL)
        session = await RawSession.open(port)
        await (await session.call("two")).body()
        status, said = await asked(port)
        assert (status, said["redis_up"]) == (200, False)
        server.start()
        await until(lambda: connected(persistence))
        assert (await asked(port))[1]["redis_up"]
        # The last word is what it is, however soon it came.
        await until(lambda: f"Redis {server.url()} is back." in caplog.text)
    server.stop()


async def becomes(port: int, status: int) -> tuple[int, Any]:
    """What the page says once it has this status."""
    async with asyncio.timeout(20):
        while (said := await asked(port))[0] != status:
            await asyncio.sleep(0.05)
    return said


async def test_a_file_that_takes_no_writes_makes_it_unready_within_a_bound(tmp_path: Path) -> None:
    url = str(tmp_path / "events.db")
    async with persisted(Scripted(two=two), url, **HEALTH, store_timeout=1) as (port, _):
        with contextlib.closing(sqlite3.connect(url, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            began = time.monotonic()
            status, said = await asked(port)
            assert time.monotonic() - began < 1
            assert status == 503
            assert said["reasons"] == ["the store gave no answer in 0.4 s"]
            assert (await asked(port, "/healthz/live"))[0] == 200
            other.execute("ROLLBACK")
        await becomes(port, 200)


async def test_a_lease_that_is_lost_makes_it_unready_until_there_is_another(tmp_store: str) -> None:
    async with persisted(Scripted(two=two), tmp_store, **HEALTH) as (port, persistence):
        context = await access_to(persistence).context()
        context.member.lease.lose()
        assert (await persistence.health()).reasons == ("it has lost its lease, and begins anew",)
        await becomes(port, 200)
        assert (await access_to(persistence).context()).member.name != context.member.name


class Reader:
    """A connection that notes what health says when it is sent away."""

    stream, epoch, is_idle = b"", 0, True

    def __init__(self, context: Any) -> None:
        self._context = context
        self.began: list[bool] = []

    def stop(self) -> None:
        self.began.append(self._context.draining)


async def test_it_is_unready_before_the_first_client_is_sent_away_and_asks_no_store_then(
    tmp_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with persisted(Scripted(two=two), tmp_store, **HEALTH) as (port, persistence):
        assert (await persistence.health()).is_ready
        context = await access_to(persistence).context()
        context.drain.join(reader := Reader(context))
        monkeypatch.setattr(context.log, "check", check := AsyncMock())
        monkeypatch.setattr("mcp_persist_middleware.health._FRESH", 0)
        context.drain.begin()
        assert reader.began == [True]
        status, said = await asked(port)
        assert (status, said["reasons"]) == (503, ["it is shutting down"])
        assert not check.called
        assert (await asked(port, "/healthz/live"))[0] == 200


async def test_a_store_is_asked_once_however_many_ask_and_a_custom_one_needs_nothing_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shelf, pings = Shelf(), 0

    class Counting(MemoryLog):
        async def ping(self) -> None:
            nonlocal pings
            pings += 1
            await asyncio.sleep(0)

    app = PersistMiddleware(Scripted(two=two), log=lambda _: Counting(shelf), **HEALTH)
    async with serving(app) as port:
        found = await asyncio.gather(*(asked(port) for _ in range(100)))
        assert {status for status, _ in found} == {200}
        assert found[0][1]["store"] == "Counting"
        assert pings == 1
        monkeypatch.setattr(Counting, "check", None)
        monkeypatch.setattr("mcp_persist_middleware.health._FRESH", 0)
        status, said = await asked(port)
        assert (status, said["reasons"]) == (503, ["TypeError"])


async def test_that_it_lives_needs_no_store(tmp_path: Path) -> None:
    away = str(tmp_path / "missing" / "events.db")
    app = PersistMiddleware(Scripted(two=two), away, health_path="/healthz")
    async with serving(without_lifespan(app)) as port:
        assert await asked(port, "/healthz/live") == (200, {"status": "live"})
        status, said = await asked(port)
        assert status == 503
        assert "missing does not exist" in said["reasons"][0]


async def test_without_the_setting_and_for_other_methods_the_application_answers(
    tmp_store: str,
) -> None:
    async def own(_: Request) -> PlainTextResponse:
        return PlainTextResponse("mine")

    routes = [
        Route(f"/healthz{rest}", own, methods=["GET", "POST"]) for rest in ("", "/ready", "/x")
    ]
    app = Starlette(routes=routes)
    async with persisted(app, tmp_store) as (port, _):
        assert await asked(port) == (200, b"mine")
    async with persisted(app, tmp_store, **HEALTH) as (port, _):
        assert await asked(port, method="POST") == (200, b"mine")
        assert await asked(port, "/healthz/x") == (200, b"mine")
        assert (await asked(port))[1]["status"] == "ready"


async def test_a_persistence_that_is_switched_off_is_ready(tmp_store: str) -> None:
    async with persisted(Scripted(two=two), tmp_store, **HEALTH, enabled=False) as (port, _):
        status, said = await asked(port)
        assert (status, said["status"], "store" in said) == (200, "ready", False)


@pytest.mark.parametrize("make", [sdk, fast])
async def test_the_helper_answers_where_the_application_has_nothing(
    make: Callable[[], Any], tmp_store: str
) -> None:
    async def own(_: Request) -> PlainTextResponse:
        return PlainTextResponse("mine")

    app = with_persistence(make(), tmp_store)
    async with serving(app) as port:
        assert (await asked(port))[1]["status"] == "ready"
        assert (await asked(port, "/healthz/live"))[0] == 200
        assert (await asked(port, "/healthz/x"))[0] == 404
        app.router.routes.append(Route("/healthz/ready", own))
        assert await asked(port) == (200, b"mine")
    async with serving(with_persistence(make(), tmp_store, health_path=None)) as port:
        assert (await asked(port))[0] == 404
    async with serving(with_persistence(make(), tmp_store, health_path="/up")) as port:
        assert (await asked(port, "/up/ready"))[0] == 200
        assert (await asked(port))[0] == 404


async def test_below_a_mount_the_path_counts_from_there(tmp_store: str) -> None:
    app = with_persistence(fast(), tmp_store, path="/")
    parent = Starlette(routes=[Mount("/mcp", app)], lifespan=app.lifespan)
    async with serving(parent) as port:
        assert (await asked(port, "/mcp/healthz/ready"))[0] == 200
        assert (await asked(port))[0] == 404


async def test_a_proxy_says_what_its_circuit_is_and_lives_without_its_upstream(
    tmp_store: str,
) -> None:
    options = UpstreamOptions(connect_timeout=0.01)
    upstream = ("http://127.0.0.1:1/mcp", tmp_store)
    app = proxy_app(*upstream, options=options)
    async with serving(app) as port:
        assert (await asked(port))[1]["circuit"] == "closed"
        for _ in range(5):
            await asked(port, "/mcp")
        status, said = await asked(port)
        assert (status, said["status"], said["circuit"]) == (200, "ready", "open")
        assert (await asked(port, "/healthz/live"))[0] == 200
    async with serving(proxy_app(*upstream, options=options, health_path=None)) as port:
        assert (await asked(port))[0] in (502, 503)
