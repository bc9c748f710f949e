"""`with_persistence`: what a server object builds, with everything in it, and streams that last."""

import inspect
from collections.abc import Callable
from typing import Any, get_args, get_overloads, get_type_hints

import fastmcp
import pytest
from fastapi import FastAPI
from fastmcp.server.auth.providers.jwt import StaticTokenVerifier
from mcp.server.auth.settings import AuthSettings
from mcp.server.mcpserver import Context, MCPServer
from pydantic import AnyHttpUrl
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount

from mcp_persist_middleware import ConfigurationError, PersistMiddleware, with_persistence
from tests.interaction.test_authentication import PEOPLE, Introspection, bearer, stream_of, tool
from tests.support.scripted import Scripted, serving
from tests.support.session import RawSession
from tests.support.sse_client import request


async def custom(_: Request) -> PlainTextResponse:
    return PlainTextResponse("mine")


def sdk() -> Any:
    auth = AuthSettings(
        issuer_url=AnyHttpUrl("https://issuer"),
        resource_server_url=AnyHttpUrl("http://127.0.0.1/mcp"),
        required_scopes=[],
        validate_token_resource=False,
    )
    server = MCPServer(
        "tests", log_level="WARNING", token_verifier=Introspection(PEOPLE), auth=auth
    )
    server.custom_route("/mine", methods=["GET"])(custom)
    server.tool()(tool(Context))
    return server


def fast() -> Any:
    server = fastmcp.FastMCP("tests", auth=StaticTokenVerifier(PEOPLE))
    server.custom_route("/mine", methods=["GET"])(custom)
    server.tool()(tool(fastmcp.Context))
    return server


# The official SDK checks Host and Origin by itself on loopback.
CHECKED: dict[Any, dict[str, Any]] = {sdk: {}, fast: {"host_origin_protection": True}}


def bare(make: Callable[[], Any]) -> Any:
    """What the server builds without us."""
    server = make()
    build = getattr(server, "http_app", None) or server.streamable_http_app
    return build(**CHECKED[make])


# Of each kind of server: who is refused, what is checked, and the routes beside the endpoint.
REQUESTS: dict[str, tuple[str, str, dict[str, str]]] = {
    "no token": ("POST", "/mcp", {}),
    "a forged token": ("POST", "/mcp", bearer("forged")),
    "another Host": ("POST", "/mcp", bearer("ann-1") | {"host": "evil.example"}),
    "another Origin": ("POST", "/mcp", bearer("ann-1") | {"origin": "https://evil.example"}),
    "a route of one's own": ("GET", "/mine", {}),
    "a well-known document": ("GET", "/.well-known/oauth-protected-resource/mcp", {}),
    "a path that is nowhere": ("GET", "/nowhere", {}),
}


async def answers(port: int) -> dict[str, tuple[int, dict[str, str], bytes]]:
    """Every answer, less what differs between any two."""
    seen = {}
    for name, (method, path, extra) in REQUESTS.items():
        session = RawSession(port, extra=extra)
        body = b'{"jsonrpc":"2.0","id":1,"method":"ping"}' if method == "POST" else b""
        response = await request(port, method, path, headers=session.headers(), body=body)
        headers = {k: v for k, v in response.headers.items() if k not in ("date", "mcp-session-id")}
        seen[name] = (response.status, headers, await response.body())
        response.close()
    return seen


@pytest.mark.parametrize("make", [sdk, fast])
async def test_what_the_server_refuses_checks_and_routes_stays_as_it_was(
    tmp_store: str, make: Callable[[], Any]
) -> None:
    app = with_persistence(make(), tmp_store, **CHECKED[make])
    assert isinstance(app, Starlette)
    async with serving(app) as port, serving(bare(make)) as bare_port:
        expected = await answers(bare_port)
        assert await answers(port) == expected
    assert [expected[name][0] for name in ("no token", "a forged token")] == [401, 401]
    assert expected["another Host"][0] == 421
    assert expected["another Origin"][0] == 403
    assert expected["a route of one's own"][2] == b"mine"


@pytest.mark.parametrize("make", [sdk, fast])
async def test_a_call_is_read_again_by_its_owner_and_the_store_may_come_from_the_environment(
    tmp_store: str, make: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MCP_PERSIST_URL", tmp_store)
    async with serving(with_persistence(make())) as port:
        ann = await RawSession.open(port, extra=bearer("ann-1"))
        cursor = await stream_of(ann, "ann")
        resumed = await ann.get(cursor)
        assert resumed.status == 200
        assert b"secret of ann" in await resumed.body()


@pytest.mark.parametrize("make", [sdk, fast])
async def test_settings_are_ours_and_everything_else_is_the_builders(
    tmp_store: str, make: Callable[[], Any]
) -> None:
    app = with_persistence(
        make(), tmp_store, path="/other", stateless_http=True, json_response=True, store_timeout=1
    )
    async with serving(app) as port:
        session = RawSession(port, path="/other", extra=bearer("ann-1"))
        answer = await session.post("ping")
        assert answer.status == 200
        assert answer.headers["content-type"] == "application/json"
        assert "mcp-session-id" not in answer.headers


async def test_what_was_built_can_be_mounted_with_its_lifespan(tmp_store: str) -> None:
    app = with_persistence(fast(), tmp_store, path="/", store_timeout=1)
    parent = FastAPI(routes=[Mount("/mcp", app)], lifespan=app.lifespan)
    async with serving(parent) as port:
        ann = await RawSession.open(port, path="/mcp/", extra=bearer("ann-1"))
        cursor = await stream_of(ann, "ann")
        assert b"secret of ann" in await (await ann.get(cursor)).body()


async def test_an_application_is_wrapped_and_not_changed(tmp_store: str) -> None:
    plain, scripted = FastAPI(), Scripted()
    assert isinstance(with_persistence(plain, tmp_store), PersistMiddleware)
    assert plain.user_middleware == []
    async with serving(with_persistence(scripted, tmp_store)) as port:
        await RawSession.open(port)


@pytest.mark.parametrize(
    ("server", "said"),
    [
        (None, "not an object of type NoneType"),
        ("server:app", "not an object of type str"),
        (FastAPI, "not the class FastAPI"),
        (fastmcp.FastMCP, "not the class FastMCP"),
    ],
)
def test_what_is_neither_a_server_nor_an_application_is_named(server: Any, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        with_persistence(server, "events.db")


@pytest.mark.parametrize("make", [sdk, fast])
def test_the_middleware_alone_refuses_a_server_object_at_once(make: Callable[[], Any]) -> None:
    """What FastMCP's `add_middleware` is given would else fail with each request."""
    with pytest.raises(ConfigurationError, match=r"of type \w+; .* with_persistence\(server\)"):
        PersistMiddleware(make(), "events.db")


@pytest.mark.parametrize("is_made", [True, False])
async def test_a_server_that_has_it_as_its_own_middleware_says_so_with_the_first_message(
    is_made: bool, tmp_store: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing calls it any sooner: FastMCP puts what it is given into a list."""
    server = fastmcp.FastMCP("tests")
    server.add_middleware(
        PersistMiddleware(server.http_app(), tmp_store) if is_made else PersistMiddleware  # type: ignore[arg-type]
    )
    with pytest.raises(Exception, match=r"."):
        async with fastmcp.Client(server):
            pass
    assert "MPM-CONFIG-14" in caplog.text or not is_made
    assert "an object of type MiddlewareContext" in caplog.text
    assert "with_persistence(server" in caplog.text


@pytest.mark.parametrize("make", [sdk, fast, FastAPI])
def test_an_argument_that_nobody_takes_is_named_with_what_could_take_it(
    make: Callable[[], Any],
) -> None:
    with pytest.raises(ConfigurationError, match="tll: neither a setting nor an argument of"):
        with_persistence(make(), "events.db", tll=60)


def test_editors_know_every_argument_of_both_builders() -> None:
    for make, build in ((fast, "http_app"), (sdk, "streamable_http_app")):
        hint = next(
            get_type_hints(each)["given"]
            for each in get_overloads(with_persistence)
            if hasattr(get_type_hints(each)["server"], build)
        )
        (known,) = get_args(hint)
        taken = inspect.signature(getattr(make(), build)).parameters
        assert taken.keys() <= known.__optional_keys__
