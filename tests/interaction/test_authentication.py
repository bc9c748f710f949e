"""Real servers with real token checks: nobody reads what is not theirs, and whoever is refused by
the application gets the application's own answer."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import fastmcp
import pytest
from fastmcp.server.auth.providers.jwt import StaticTokenVerifier
from mcp.server.auth.provider import AccessToken
from mcp.server.auth.settings import AuthSettings
from mcp.server.mcpserver import Context, MCPServer
from pydantic import AnyHttpUrl
from starlette.applications import Starlette
from starlette.routing import Mount

from mcp_persist_middleware import PersistMiddleware
from mcp_persist_middleware.protocol import event_id
from tests.support.scripted import serving
from tests.support.session import HANDSHAKE, MODERN, RawSession

# Two tokens of one person, another person of the same client, and one whom nobody names.
PEOPLE = {
    "ann-1": {"client_id": "app", "sub": "ann", "iss": "https://issuer", "scopes": []},
    "ann-2": {"client_id": "app", "sub": "ann", "iss": "https://issuer", "scopes": []},
    "bob-1": {"client_id": "app", "sub": "bob", "iss": "https://issuer", "scopes": []},
    "app-1": {"client_id": "app", "scopes": []},
    "app-2": {"client_id": "app", "scopes": []},
}


class Introspection:
    """The SDK's token verifier, which asks somebody who may be slow."""

    def __init__(self, people: dict[str, dict[str, Any]]) -> None:
        self.people = people
        self.seconds = 0.0

    async def verify_token(self, token: str) -> AccessToken | None:
        await asyncio.sleep(self.seconds)
        if (claims := self.people.get(token)) is None:
            return None
        return AccessToken(
            token=token,
            client_id=claims["client_id"],
            scopes=claims["scopes"],
            subject=claims.get("sub"),
            claims=claims,
        )


def tool(context: Any) -> Any:
    """The tool; at 2026-07-28 an answer is an event stream only when something comes before it."""

    async def secret(name: str, ctx: context) -> str:
        await ctx.report_progress(1, 2, name)
        return f"secret of {name}"

    return secret


Build = Callable[[dict[str, dict[str, Any]]], tuple[Any, Any]]


def sdk(people: dict[str, dict[str, Any]], *, stateless: bool = False) -> tuple[Any, Any]:
    issuer, resource = AnyHttpUrl("https://issuer"), AnyHttpUrl("http://127.0.0.1/mcp")
    auth = AuthSettings(
        issuer_url=issuer,
        resource_server_url=resource,
        required_scopes=[],
        validate_token_resource=False,
    )
    verifier = Introspection(people)
    server = MCPServer("tests", log_level="WARNING", token_verifier=verifier, auth=auth)
    server.tool()(tool(Context))
    return server.streamable_http_app(stateless_http=stateless), verifier


def sdk_stateless(people: dict[str, dict[str, Any]]) -> tuple[Any, Any]:
    return sdk(people, stateless=True)


def fast(people: dict[str, dict[str, Any]], *, stateless: bool = False) -> tuple[Any, Any]:
    server = fastmcp.FastMCP("tests", auth=StaticTokenVerifier(people))
    server.tool()(tool(fastmcp.Context))
    return server.http_app(stateless_http=stateless), None


def fast_stateless(people: dict[str, dict[str, Any]]) -> tuple[Any, Any]:
    return fast(people, stateless=True)


def unknown(cursor: str) -> str:
    """The same cursor of a stream that never was."""
    ids = event_id.EventIds.of(b"\x01" * 16, event_id.StreamKind.POST, 1)
    return ids.at(1, 1).decode()[:22] + cursor[22:]


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


async def stream_of(session: RawSession, name: str) -> str:
    """The first id of a finished call."""
    frames = [frame async for frame in (await session.call("secret", name=name)).frames()]
    assert f"secret of {name}" in (frames[-1].data or "")
    return next(frame.id for frame in frames if frame.id)


async def asked(session: RawSession, cursor: str | None) -> tuple[int, dict[str, str], str]:
    """The whole answer to a cursor, without what differs between any two answers."""
    response = await session.get(cursor)
    headers = {k: v for k, v in response.headers.items() if k != "date"}
    body = (await response.body()).decode()
    response.close()
    return response.status, headers, body


def same_session(owner: RawSession, token: str | None) -> RawSession:
    """Somebody who has got hold of the owner's session id."""
    extra = bearer(token) if token is not None else {}
    return RawSession(owner.port, owner.version, owner.path, owner.session_id, extra)


@pytest.mark.parametrize("version", [HANDSHAKE, MODERN])
@pytest.mark.parametrize("build", [sdk, sdk_stateless, fast, fast_stateless])
async def test_a_result_is_read_by_the_person_whose_call_it_was_alone(
    tmp_store: str, build: Build, version: str
) -> None:
    app, _ = build(PEOPLE)
    async with serving(PersistMiddleware(app, url=tmp_store, store_timeout=1.0)) as port:
        ann = await RawSession.open(port, version, extra=bearer("ann-1"))
        cursor = await stream_of(ann, "ann")
        assert "secret of ann" in (await asked(ann, cursor))[2]
        rotated = same_session(ann, "ann-2")
        assert "secret of ann" in (await asked(rotated, cursor))[2]
        bob = same_session(ann, "bob-1")
        assert await asked(bob, cursor) == await asked(bob, unknown(cursor))
        nameless = await RawSession.open(port, version, extra=bearer("app-1"))
        cursor = await stream_of(nameless, "nobody")
        assert "secret of nobody" in (await asked(nameless, cursor))[2]
        other = same_session(nameless, "app-2")
        assert await asked(other, cursor) == await asked(other, unknown(cursor))


@pytest.mark.parametrize("version", [HANDSHAKE, MODERN])
@pytest.mark.parametrize("build", [sdk, sdk_stateless, fast, fast_stateless])
async def test_a_caller_without_a_valid_token_gets_the_bare_servers_401(
    tmp_store: str, build: Build, version: str
) -> None:
    persisted, bare = build(PEOPLE)[0], build(PEOPLE)[0]
    async with (
        serving(PersistMiddleware(persisted, url=tmp_store)) as port,
        serving(bare) as bare_port,
    ):
        ann = await RawSession.open(port, version, extra=bearer("ann-1"))
        cursor = await stream_of(ann, "ann")
        for token in (None, "forged"):
            thief, direct = same_session(ann, token), same_session(ann, token)
            direct.port = bare_port
            refused = await thief.call("secret", name="me")
            expected = await direct.call("secret", name="me")
            assert refused.status == expected.status == 401
            challenge = refused.headers["www-authenticate"]
            assert challenge == expected.headers["www-authenticate"]
            assert await refused.body() == await expected.body()
            for given in (cursor, unknown(cursor)):
                status, headers, body = await asked(thief, given)
                assert (status, headers["www-authenticate"]) == (401, challenge)
                assert "secret" not in body


@pytest.mark.parametrize("version", [HANDSHAKE, MODERN])
async def test_a_slow_introspection_still_ends_in_401(tmp_store: str, version: str) -> None:
    app, verifier = sdk(PEOPLE)
    settings: dict[str, Any] = {"prime_after": 0.05, "store_timeout": 1.0}
    async with serving(PersistMiddleware(app, url=tmp_store, **settings)) as port:
        ann = await RawSession.open(port, version, extra=bearer("ann-1"))
        cursor = await stream_of(ann, "ann")
        verifier.seconds = 0.4
        verifier.people = {}  # revoked meanwhile: what was trusted a minute ago is not any more
        assert (await ann.call("secret", name="ann")).status == 401
        assert (await asked(ann, cursor))[0] == 401


async def test_mounts_with_different_authentication_keep_to_themselves(tmp_store: str) -> None:
    left, _ = sdk({"one": {"client_id": "app", "sub": "ann", "scopes": []}})
    right, _ = sdk({"two": {"client_id": "app", "sub": "ann", "scopes": []}})

    @contextlib.asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        async with (
            left.router.lifespan_context(left),
            right.router.lifespan_context(right),
        ):
            yield

    app = Starlette(routes=[Mount("/left", left), Mount("/right", right)], lifespan=lifespan)
    app.add_middleware(PersistMiddleware, url=tmp_store, store_timeout=1.0)
    async with serving(app) as port:
        owner = await RawSession.open(port, path="/left/mcp", extra=bearer("one"))
        cursor = await stream_of(owner, "left")
        other = await RawSession.open(port, path="/right/mcp", extra=bearer("two"))
        assert await asked(other, cursor) == await asked(other, unknown(cursor))
        for path, token in (("/left/mcp", "two"), ("/right/mcp", "one")):
            stranger = same_session(owner, token)
            stranger.path = path
            assert (await asked(stranger, cursor))[0] == 401
        assert "secret of left" in (await asked(owner, cursor))[2]
