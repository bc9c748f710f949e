"""`doctor` looks at the application too: started here, or as a server elsewhere."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from anyio.from_thread import BlockingPortal
from mcp.server.mcpserver import MCPServer
from mcp.server.transport_security import TransportSecuritySettings
from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Mount

from mcp_persist_middleware import PersistMiddleware
from mcp_persist_middleware.errors import ConfigurationError
from mcp_persist_middleware.ops.doctor import Finding, Level, sealing
from mcp_persist_middleware.ops.doctor import application as checks
from mcp_persist_middleware.ops.endpoint import in_process
from mcp_persist_middleware.ops.endpoint.asker import Asker
from mcp_persist_middleware.ops.endpoint.look import Found
from mcp_persist_middleware.ops.endpoint.pages import Pages
from tests.cli.scene import Ran, run
from tests.support.scripted import serving
from tests.support.stateful import Stateful
from tests.support.stores import free_port

ORIGIN = "https://app.example"
APPS = """
from mcp.server.mcpserver import MCPServer, RequestStateSecurity
from mcp_persist_middleware import PersistMiddleware, with_persistence

print("a line of the application's own")
app = MCPServer("plain").streamable_http_app()
app.add_middleware(PersistMiddleware, url="kept.db")
helped = with_persistence(MCPServer("helped"), "kept.db")
policy = RequestStateSecurity(keys=["k" * 32])
keyed = MCPServer("keyed", request_state_security=policy).streamable_http_app()
"""


@pytest.fixture
def apps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "doctored.py").write_text(APPS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "doctored", raising=False)
    return "doctored"


def finding(ran: Ran, name: str) -> dict[str, str]:
    (found,) = [each for each in ran.json if each["check"] == name]
    return found


def test_an_application_is_started_without_its_store(apps: str, tmp_path: Path) -> None:
    ran = run("doctor", "--app", f"{apps}:app", "--json")
    assert ran.code == 1
    assert list(tmp_path.glob("kept.db*")) == []
    seen = finding(ran, "application")
    assert (seen["level"], seen["said"]) == ("ok", "plain, doctored:app at /mcp")
    assert finding(ran, "eras")["said"].startswith("2026-07-28, 2025-11-25, ")
    assert finding(ran, "answers")["said"] == "event streams"
    state = finding(ran, "request state")
    assert (state["level"], "keys=[os.environ" in state["fix"]) == ("warning", True)
    assert ran.err == "a line of the application's own\n"


async def test_one_key_for_all_processes_is_seen(apps: str) -> None:
    module = __import__(apps)
    assert await sealing.is_shared(module.keyed, f"{apps}:keyed") is True
    assert await sealing.is_shared(Starlette(), f"{apps}:app") is None


def test_a_path_without_an_endpoint_is_told_with_what_to_do(apps: str, tmp_path: Path) -> None:
    ran = run("doctor", "--app", f"{apps}:helped", "--path", "/other", "--json")
    assert list(tmp_path.glob("kept.db*")) == []
    seen = finding(ran, "application")
    assert (ran.code, seen["level"]) == (1, "failure")
    assert "it answers initialize with 404" in seen["said"]
    assert "--path says where its endpoint is" in seen["fix"]


def _app(**given: Any) -> Starlette:
    return MCPServer("pages").streamable_http_app(**given)


async def seen(app: Any, origin: str | None = ORIGIN) -> dict[str, Finding]:
    async with in_process.running(app) as served:
        found = await checks.seen(Asker(served, "/mcp"), "app", origin)
    return {each.name: each for each in checks.findings(found)}


TRUSTED = TransportSecuritySettings(allowed_hosts=["localhost:*"], allowed_origins=[ORIGIN])
WHOLE: dict[str, Any] = {
    "allow_methods": ["*"],
    "allow_headers": ["*"],
    "expose_headers": ["Mcp-Session-Id"],
}


@pytest.mark.parametrize(
    ("cors", "security", "level", "said"),
    [
        (None, TRUSTED, Level.WARNING, "may not speak to it"),
        ({}, None, Level.WARNING, "the application refuses pages of https://app.example with 403"),
        (WHOLE, TRUSTED, Level.OK, "may send and read what a client needs"),
        (
            {"allow_headers": ["mcp-session-id"]},
            TRUSTED,
            Level.WARNING,
            "may not send DELETE, mcp-protocol-version, last-event-id",
        ),
    ],
)
async def test_what_pages_may_do_is_told(
    cors: dict[str, Any] | None, security: Any, level: Level, said: str
) -> None:
    app = _app(transport_security=security)
    if cors is not None:
        app.add_middleware(CORSMiddleware, allow_origins=[ORIGIN], **cors)
    found = (await seen(app))["cors"]
    assert found.level == level
    assert said in found.said
    assert bool(found.fix) == found.is_trouble


async def test_pages_that_nobody_named_are_no_trouble() -> None:
    assert (await seen(_app(), None))["cors"].level == Level.SKIPPED


def test_a_layer_for_pages_belongs_outside() -> None:
    outside, inside = _app(), _app()
    outside.add_middleware(PersistMiddleware, url="x.db")
    outside.add_middleware(CORSMiddleware)
    inside.add_middleware(CORSMiddleware)
    inside.add_middleware(PersistMiddleware, url="x.db")
    found = [checks.has_inner_cors(app) for app in (outside, inside)]
    wrapped = PersistMiddleware(CORSMiddleware(_app()), url="x.db")
    assert [*found, checks.has_inner_cors(wrapped)] == [False, True, True]


async def test_answers_in_json_are_told_with_what_to_do() -> None:
    found = (await seen(_app(json_response=True)))["answers"]
    assert found.level == Level.WARNING
    assert "prime_json=True" in found.fix


async def test_an_application_without_a_lifespan_and_without_sessions_of_2026_is_examined() -> None:
    found = await seen(Stateful())
    assert found["application"].level == Level.OK
    assert found["request state"].level == Level.SKIPPED
    assert found["eras"].said.startswith("2025-11-25")


async def test_a_mount_that_wants_another_slash_is_found_where_clients_find_it() -> None:
    inner = _app(streamable_http_path="/")
    mounting = Starlette(
        routes=[Mount("/mcp", inner)], lifespan=lambda _: inner.router.lifespan_context(inner)
    )
    assert (await seen(mounting))["application"].level == Level.OK


async def test_an_application_that_does_not_start_is_told() -> None:
    async def failing(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no such database"})

    with pytest.raises(ConfigurationError, match="does not start: no such database"):
        async with in_process.running(failing):
            pass


async def test_an_application_that_raises_answers_as_behind_a_server() -> None:
    async def raising(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError("a mistake")

    found = (await seen(raising))["application"]
    assert (found.level, "initialize with 500" in found.said) == (Level.FAILURE, True)


SEEN = checks.ApplicationFacts(
    found=Found(upstream="x", revisions=("2025-11-25",), buffering="it is collected"),
    pages=Pages(ORIGIN, allowed=False),
    asked_for_pages=False,
)


def test_what_keeps_events_back_is_told_with_what_to_do() -> None:
    (found,) = [each for each in checks.findings(SEEN) if each.name == "buffering"]
    assert (found.level, "proxy_buffering off" in found.fix) == (Level.WARNING, True)


def test_a_server_elsewhere_is_examined_without_a_store(
    portal: BlockingPortal, tmp_path: Path
) -> None:
    makes: Callable[[], Any] = Stateful
    with portal.wrap_async_context_manager(serving(makes())) as port:
        ran = run("doctor", "--upstream", f"http://127.0.0.1:{port}/mcp", "--json")
    assert "store" not in {each["check"] for each in ran.json}
    assert finding(ran, "eras")["said"].startswith("2025-11-25")
    assert (ran.code, finding(ran, "answers")["level"]) == (1, "warning")


def test_servers_that_promise_different_things_are_told(portal: BlockingPortal) -> None:
    with (
        portal.wrap_async_context_manager(serving(Stateful())) as one,
        portal.wrap_async_context_manager(serving(Stateful(tools=False))) as two,
    ):
        urls = [f"http://127.0.0.1:{port}/mcp" for port in (one, two)]
        ran = run("doctor", *(each for url in urls for each in ("--upstream", url)), "--json")
        same = run("doctor", "--upstream", urls[0], "--json")
    assert finding(ran, "replicas")["said"].startswith(f"{urls[0]}, {urls[1]} promise different")
    assert "replicas" not in {each["check"] for each in same.json}


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--upstream", "127.0.0.1/mcp"], 2, "expected a URL such as"),
        (["--upstream", f"http://127.0.0.1:{free_port()}/mcp"], 1, "it cannot be reached"),
        (["--upstream", "http://h/mcp", "--header-file", "none"], 2, "--header-file none cannot"),
        (["--url", "x.db", "--path", "mcp"], 2, "expected a path as /mcp"),
    ],
)
def test_what_cannot_be_looked_at_is_told(options: list[str], code: int, said: str) -> None:
    ran = run("doctor", *options)
    assert ran.code == code
    assert said in " ".join((ran.out + ran.err).split())
