"""Where the middleware can stand, how it starts, how it fails to start, and how it stops."""

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from mcp.server.mcpserver import MCPServer
from sqlalchemy.ext.asyncio import create_async_engine
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient

from mcp_persist_middleware import (
    ConfigurationError,
    Persistence,
    PersistMiddleware,
    StoreError,
    __version__,
    with_persistence,
)
from mcp_persist_middleware.persistence import access_to
from tests.support.processes import ServerError, ServerProcess, mcp_server, running
from tests.support.scripted import Call, Scripted, persisted, serving, until
from tests.support.session import RawSession


@pytest.fixture
def store(tmp_path: Path) -> str:
    """The URL of a store of this test's own."""
    return f"sqlite+aiosqlite:///{tmp_path / 'events.db'}"


async def two(call: Call) -> None:
    """One event, then the answer."""
    await call.head()
    await call.progress(1)
    await call.result()


async def keeps(port: int, path: str = "/mcp", tool: str = "two") -> None:
    """A call's events have ids, and can be read again."""
    session = await RawSession.open(port, path=path)
    frames = [f async for f in (await session.call(tool)).frames() if f.id]
    assert frames[-1].is_response
    replay = await session.get(frames[0].id)
    assert [f async for f in replay.frames()][-1].is_response


def sdk_server() -> MCPServer:
    """An official SDK server with one tool."""
    server = MCPServer("tests", log_level="WARNING")

    @server.tool()
    async def two() -> str:
        return "done"

    return server


@pytest.mark.parametrize("framework", [Starlette, FastAPI])
async def test_a_framework_with_the_mcp_app_mounted_and_lifespans_combined(
    store: str, framework: Any
) -> None:
    server, events = sdk_server(), []

    @contextlib.asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        async with server.session_manager.run():
            events.append("started")
            yield
        events.append("stopped")

    mcp_app = server.streamable_http_app()
    app = framework(lifespan=lifespan)
    app.mount("/deep/down", mcp_app)
    app.add_middleware(PersistMiddleware, url=store)
    async with serving(app) as port:
        await keeps(port, "/deep/down/mcp")
    assert events == ["started", "stopped"]


async def test_the_sdks_own_application_and_a_wrapper_around_it(tmp_path: Path) -> None:
    app = sdk_server().streamable_http_app()
    app.add_middleware(PersistMiddleware, url=str(tmp_path / "one.db"))
    async with serving(app) as port:
        await keeps(port)
    wrapped = PersistMiddleware(sdk_server().streamable_http_app(), url=str(tmp_path / "two.db"))
    async with serving(wrapped) as port:
        await keeps(port)


async def test_a_mounted_application_that_sees_no_lifespan_starts_with_its_first_request(
    store: str,
) -> None:
    inner = PersistMiddleware(Scripted(two=two), url=store)
    async with serving(Starlette(routes=[Mount("/sub", inner)])) as port:
        await keeps(port, "/sub/mcp")
        await inner.aclose()
        await inner.aclose()


async def test_mounts_with_equal_settings_share_one_store(store: str) -> None:
    one = PersistMiddleware(Scripted(two=two), url=store)
    two_ = PersistMiddleware(Scripted(two=two), url=store)
    async with serving(Starlette(routes=[Mount("/1", one), Mount("/2", two_)])) as port:
        await keeps(port, "/1/mcp")
        await keeps(port, "/2/mcp")
        first, second = (
            await access_to(one.persistence).context(),
            await access_to(two_.persistence).context(),
        )
        assert first is second
        await one.aclose()
        await keeps(port, "/2/mcp")
        await two_.aclose()


def test_two_event_loops_in_one_process_each_have_their_own(store: str) -> None:
    middleware = PersistMiddleware(Scripted(two=two), url=store)
    failures: list[BaseException] = []

    def run() -> None:
        async def main() -> None:
            async with serving(middleware) as port:
                for _ in range(5):
                    await keeps(port)

        try:
            asyncio.run(main())
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures


async def test_wrapped_twice_the_inner_one_steps_aside_and_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    inner = PersistMiddleware(Scripted(two=two), url=str(tmp_path / "inner.db"))
    async with persisted(inner, str(tmp_path / "outer.db")) as (port, _):
        await keeps(port)
        await keeps(port)
    assert not (tmp_path / "inner.db").exists()
    assert len([r for r in caplog.records if "applied twice" in r.getMessage()]) == 1


async def test_an_engine_of_the_callers_is_used_and_not_closed(tmp_path: Path) -> None:
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'events.db'}")
    persistence = Persistence(engine=engine)
    async with serving(PersistMiddleware(Scripted(two=two), persistence=persistence)) as port:
        await keeps(port)
        await persistence.ping()
    async with engine.connect() as connection:
        rows = await connection.exec_driver_sql("SELECT count(*) FROM mcp_event")
        assert rows.scalar_one() > 0
    await engine.dispose()


async def test_a_failed_lazy_start_answers_503_and_says_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    inner = PersistMiddleware(Scripted(two=two), url=str(tmp_path / "missing" / "events.db"))
    async with serving(Starlette(routes=[Mount("/sub", inner)])) as port:
        for _ in range(2):
            session = RawSession(port, path="/sub/mcp")
            assert (await session.post("initialize", {})).status == 503
    said = [r.getMessage() for r in caplog.records if "missing does not exist" in r.getMessage()]
    assert len(said) == 1


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, ["survives the death of the process, not the loss of power", "2026-07-28"]),
        ({"synchronous": "full"}, ["survives the death of the process, and the loss of power"]),
        ({"modern_streams": "pass"}, ["revisions: 2024-11-05, 2025-03-26, 2025-06-18, 2025-11-25"]),
        ({"redis": "redis://ann:hunter2@127.0.0.1:1/0"}, ["behind redis://127.0.0.1:1/0"]),
    ],
)
async def test_one_line_at_the_start_says_what_is_kept_where_how_safe_and_for_whom(
    store: str, settings: dict[str, Any], said: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "mcp_persist_middleware")
    async with Persistence(store, **settings):
        await until(lambda: [m for m in caplog.messages if "streams are kept in" in m])
        (line,) = [m for m in caplog.messages if "streams are kept in" in m]
        assert line.startswith(f"mcp-persist-middleware {__version__}: streams are kept in {store}")
        assert all(part in line for part in [*said, "other workers: 0"]), line
        assert ("2026-07-28" in line) == (settings.get("modern_streams") != "pass")
    assert "hunter2" not in caplog.text


async def test_a_newer_schema_is_left_alone(store: str, tmp_path: Path) -> None:
    async with Persistence(url=store):
        pass
    with sqlite3.connect(tmp_path / "events.db") as file:
        told = "UPDATE mcp_meta SET value = CAST('99' AS BLOB) WHERE name IN ('schema', 'version')"
        file.execute(told)
    with pytest.raises(StoreError, match="schema 99"):
        await Persistence(url=store).start()


START_UP = """
import os, sys
from starlette.applications import Starlette
from mcp_persist_middleware import PersistMiddleware, Persistence
settings = eval(os.environ["TEST_SETTINGS"])
if os.environ["TEST_HOW"] == "added":
    app = Starlette()
    app.add_middleware(PersistMiddleware, **settings)
else:
    app = PersistMiddleware(Starlette(), **settings)
"""


@pytest.mark.parametrize("how", ["added", "wrapped"])
@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ("dict(url='mysql://u:hunter2@h/x')", ["mysql", "sqlite+aiosqlite:///events.db"]),
        ("dict(url='events.db', retry=1)", ["'retry'", "did you mean 'retry_ms'"]),
        ("dict(url='events.db', ttl=-1)", ["'ttl'", "-1", "at least 0"]),
        ("dict(url='/no/such/place/events.db')", ["/no/such/place", "create it first"]),
        ("dict(url='/proc/events.db')", ["/proc/events.db", "Check that"]),
        ("dict(url=__file__)", ["not a database", "Check that"]),
        ("dict()", ["MCP_PERSIST_URL"]),
        ("dict(url='a.db', persistence=Persistence(url='b.db'))", ["both given", "url"]),
    ],
)
async def test_a_server_that_cannot_keep_streams_does_not_start(
    tmp_path: Path, settings: str, says: list[str], how: str
) -> None:
    (tmp_path / "start_up_app.py").write_text(START_UP)
    environ = {"TEST_SETTINGS": settings, "TEST_HOW": how, "PYTHONPATH": str(tmp_path)}
    server = ServerProcess(
        "start_up_app:app",
        tmp_path / "log",
        environ=environ,
        arguments=["--app-dir", str(tmp_path)],
    )
    with pytest.raises(ServerError):
        await server.start()
    assert await server.exit_code() != 0
    log = server.log
    assert all(part in log for part in says), log
    assert "hunter2" not in log


@pytest.mark.parametrize("how", ["added", "wrapped", "helper"])
def test_a_wrong_setting_raises_under_a_test_client(how: str, store: str) -> None:
    wrong: dict[str, Any] = {"url": store, "ttl": -1}
    match how:
        case "added":
            (app := Starlette()).add_middleware(PersistMiddleware, **wrong)
            served: Any = app
        case "wrapped":
            served = PersistMiddleware(Starlette(), **wrong)
        case _:
            served = with_persistence(sdk_server(), **wrong)
    with pytest.raises(ConfigurationError, match="'ttl'"), TestClient(served):
        pass


async def test_a_failed_start_up_of_the_application_is_forwarded_unchanged(store: str) -> None:
    async def broken(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "the application's own"})

    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "lifespan.startup"}

    async def send(message: Any) -> None:
        sent.append(message)

    await PersistMiddleware(broken, url=store)({"type": "lifespan"}, receive, send)
    assert sent == [{"type": "lifespan.startup.failed", "message": "the application's own"}]


async def test_a_server_that_stops_leaves_another_one_on_its_event_loop_alone(store: str) -> None:
    def app() -> PersistMiddleware:
        return PersistMiddleware(Starlette(routes=[Mount("/", Scripted(two=two))]), url=store)

    async with serving(staying := app()) as port:
        async with serving(app()) as other:
            await keeps(other)
        assert not (await access_to(staying.persistence).context()).draining
        await keeps(port)


async def test_sigterm_ends_idle_streams_cleanly_and_soon(tmp_path: Path) -> None:
    async with running(mcp_server(tmp_path, settings={"drain_seconds": 1})) as server:
        sessions = [await RawSession.open(server.port) for _ in range(20)]
        streams = [await session.get() for session in sessions]
        readers = [asyncio.create_task(_read_to_end(stream)) for stream in streams]
        await asyncio.sleep(0)
        assert await server.terminate(timeout=8) in (0, -15)
        # A reset would raise here.
        await asyncio.wait_for(asyncio.gather(*readers), 5)


async def _read_to_end(stream: Any) -> None:
    async for _ in stream.frames():
        pass


async def test_the_store_is_closed_and_leaves_no_task(store: str, tmp_path: Path) -> None:
    async with persisted(Scripted(two=two), store) as (port, _):
        await keeps(port)
    await until(
        lambda: not [t for t in asyncio.all_tasks() if t.get_name().startswith("mcp-persist")]
    )
    assert {path.name for path in tmp_path.iterdir()} == {"events.db"}
