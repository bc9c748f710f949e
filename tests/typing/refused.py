"""What a type checker has to refuse; never run. An ignored error that is none is an error of the
checker's: mypy says so by itself, pyright with `reportUnnecessaryTypeIgnoreComment`.
"""

from fastmcp import FastMCP
from mcp.server.mcpserver import MCPServer
from starlette.applications import Starlette
from starlette.requests import HTTPConnection

from mcp_persist_middleware import Persistence, PersistMiddleware, with_persistence
from mcp_persist_middleware.ops.proxy import proxy_app

URL = "events.db"


def principal() -> str | None:
    """One that is not given the connection."""
    return None


def store(settings: str) -> str:
    """Neither takes the settings nor makes a store."""
    return settings


def added(app: Starlette) -> None:
    """`add_middleware` of Starlette and FastAPI."""
    app.add_middleware(PersistMiddleware, url=URL, tll=60)  # type: ignore[call-arg]
    app.add_middleware(PersistMiddleware, url=5)  # type: ignore[arg-type]
    app.add_middleware(PersistMiddleware, url=URL, session_routing="sticky")  # type: ignore[arg-type]
    app.add_middleware(PersistMiddleware, url=URL, on_store_failure="ignore")  # type: ignore[arg-type]
    app.add_middleware(PersistMiddleware, url=URL, principal=principal)  # type: ignore[arg-type]
    app.add_middleware(PersistMiddleware, url=URL, ttl=None)  # type: ignore[arg-type]
    app.add_middleware(PersistMiddleware, url=URL, retry_ms=1.5)  # type: ignore[arg-type]
    app.add_middleware(PersistMiddleware, url=URL, paths="/mcp")  # type: ignore[arg-type]
    app.add_middleware(PersistMiddleware, log=store)  # type: ignore[arg-type]


def wrapped(app: Starlette, connection: HTTPConnection) -> None:
    """Around an application."""
    PersistMiddleware(app, url=URL, tll=60)  # type: ignore[call-arg]
    PersistMiddleware(app, url=URL, session_routing="sticky")  # type: ignore[arg-type]
    PersistMiddleware(app, persistence=URL)  # type: ignore[arg-type]
    PersistMiddleware(app, url=URL, namespace=connection)  # type: ignore[arg-type]


def opened() -> None:
    """The object form, and the proxy."""
    Persistence(URL, tll=60)  # type: ignore[call-arg]
    Persistence(URL, prime_json="yes")  # type: ignore[arg-type]
    proxy_app("http://127.0.0.1:3000/mcp", URL, tll=60)  # type: ignore[call-arg]
    proxy_app("http://127.0.0.1:3000/mcp", URL, synchronous="off")  # type: ignore[arg-type]


def helped(sdk: MCPServer, fast: FastMCP, app: Starlette) -> None:
    """A setting, or an argument of this server's builder."""
    with_persistence(sdk, URL, tll=60)  # type: ignore[call-overload]
    with_persistence(fast, URL, tll=60)  # type: ignore[call-overload]
    with_persistence(app, URL, tll=60)  # type: ignore[call-overload]
    with_persistence(sdk, URL, session_routing="sticky")  # type: ignore[call-overload]
    with_persistence(fast, URL, stateless_http="yes")  # type: ignore[call-overload]
    with_persistence(app, URL, stateless_http=True)  # type: ignore[call-overload]
    with_persistence(5)  # type: ignore[call-overload]
