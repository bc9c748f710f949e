"""The public API as a type checker has to see it; never run."""

from collections.abc import Callable
from typing import Unpack, assert_type

from fastmcp import FastMCP
from fastmcp.server.http import StarletteWithLifespan
from mcp.server.mcpserver import MCPServer
from starlette.applications import Starlette
from starlette.requests import HTTPConnection

import mcp_persist_middleware as package
from mcp_persist_middleware import (
    ClosedError,
    ConfigurationError,
    FeedEvent,
    FeedGap,
    Health,
    Persistence,
    PersistError,
    PersistMiddleware,
    Settings,
    SettingsArguments,
    StoreError,
    with_persistence,
)
from mcp_persist_middleware.ops.proxy import proxy_app
from mcp_persist_middleware.store import EventLog, MakeLog

assert_type(package.__version__, str)


def principal(connection: HTTPConnection) -> str | None:
    """The caller's name."""
    return connection.headers.get("x-user")


def wrap(app: Starlette) -> PersistMiddleware:
    """Both ways to apply the middleware."""
    app.add_middleware(PersistMiddleware, url="sqlite+aiosqlite:///events.db")
    app.add_middleware(PersistMiddleware, url="events.db", ttl=60, principal=principal)
    app.add_middleware(PersistMiddleware, url="events.db", ttl="7d", max_body_bytes="4MB")
    wrapped = PersistMiddleware(app, url="sqlite+aiosqlite:///events.db", prime_after=None)
    assert_type(wrapped.persistence, Persistence)
    return PersistMiddleware(wrapped, persistence=wrapped.persistence)


def custom(app: Starlette, make: MakeLog) -> Persistence:
    """A store of one's own."""

    def mine(settings: Settings) -> EventLog:
        return make(settings)

    app.add_middleware(PersistMiddleware, log=mine)
    assert_type(Settings.load({"log": mine}).log, Callable[[Settings], object] | None)
    return Persistence(log=mine, ttl=60)


def helped(sdk: MCPServer, fast: FastMCP, app: Starlette) -> None:
    """What a server builds keeps its type; an application is wrapped."""
    assert_type(with_persistence(sdk), Starlette)
    assert_type(with_persistence(sdk, "events.db", stateless_http=True), Starlette)
    assert_type(with_persistence(sdk, path="/mcp", transport_security=None, ttl="7d"), Starlette)
    assert_type(with_persistence(fast, path="/", middleware=[]), StarletteWithLifespan)
    assert_type(with_persistence(fast, url="events.db", ttl=60), StarletteWithLifespan)
    assert_type(with_persistence(app, persistence=Persistence("events.db")), PersistMiddleware)


def proxied() -> PersistMiddleware:
    """The proxy takes the same settings."""
    return proxy_app("http://127.0.0.1:3000/mcp", "events.db", session_ttl="24h", log=None)


def passed_on(app: Starlette, **settings: Unpack[SettingsArguments]) -> PersistMiddleware:
    """Somebody's own function with the same settings."""
    return PersistMiddleware(app, "events.db", **settings)


async def use() -> None:
    """The object form."""
    async with Persistence("events.db", paths=["/mcp"]) as opened:
        assert_type(opened, Persistence)
        assert_type(opened.settings, Settings)
        assert_type(await opened.ping(), None)
        assert_type(await opened.health(), Health)
    assert_type(await opened.aclose(), None)


def load() -> None:
    """Settings and the errors they raise."""
    try:
        settings = Settings.load({"url": "events.db"}, {})
    except ConfigurationError as error:
        assert_type(error.fields, dict[str, object])
    else:
        assert_type(settings.retry_ms, int)
        assert_type(settings.prime_after, float | None)
        assert_type(settings.paths, tuple[str, ...] | None)


errors: list[type[PersistError]] = [ClosedError, ConfigurationError, StoreError]


async def followed(persistence: Persistence) -> None:
    """What is followed is one of two."""
    async with persistence.subscribe(session="s", after="start", on_slow="drop") as feed:
        async for item in feed:
            assert_type(item, FeedEvent | FeedGap)
            assert_type(item.cursor, str)
