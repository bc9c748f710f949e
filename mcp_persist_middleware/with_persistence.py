"""The helper: a server object, or an application, becomes one whose streams and sessions last."""

import contextlib
import inspect
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import fields
from typing import Any, Literal, Protocol, TypeVar, Unpack, overload

from starlette.applications import Starlette
from starlette.types import ASGIApp, Receive, Scope, Send

from mcp_persist_middleware import health
from mcp_persist_middleware.errors import ConfigurationError
from mcp_persist_middleware.log.base import MakeLog
from mcp_persist_middleware.middleware import PersistMiddleware
from mcp_persist_middleware.persistence import Persistence
from mcp_persist_middleware.settings import Settings, SettingsArguments, is_given

_App = TypeVar("_App", bound=Starlette, covariant=True)  # noqa: PLC0105

_OURS = frozenset({*(field.name for field in fields(Settings)), "persistence"})
# What `path=` is called by the builders that have it.
_PATHS = ("path", "streamable_http_path")


class _BuildsHttpApp(Protocol[_App]):
    """FastMCP, the standalone one."""

    @property
    def http_app(self) -> Callable[..., _App]: ...


class _BuildsStreamableHttpApp(Protocol[_App]):
    """The official SDK: `MCPServer` (2.x), `FastMCP` (1.x)."""

    @property
    def streamable_http_app(self) -> Callable[..., _App]: ...


class _Arguments(SettingsArguments, total=False):
    log: MakeLog
    """A store of yours instead of `url`, see `Persistence`."""
    persistence: Persistence
    """A `Persistence` of yours instead of `url` and settings."""


class _WithBuilders(_Arguments, total=False):
    """What the builders take as well; their types are theirs to check."""

    path: str | None
    """Where the endpoint is."""
    json_response: bool | None
    stateless_http: bool | None
    event_store: Any
    retry_interval: int | None
    session_idle_timeout: Any


class _HttpAppArguments(_WithBuilders, total=False):
    middleware: list[Any] | None
    transport: Literal["http", "streamable-http", "sse"]
    host_origin_protection: Any
    allowed_hosts: list[str] | None
    allowed_origins: list[str] | None


class _StreamableHttpAppArguments(_WithBuilders, total=False):
    streamable_http_path: str
    max_request_body_size: int
    transport_security: Any
    host: str


@overload
def with_persistence(
    server: _BuildsHttpApp[_App],
    /,
    url: str | None = None,
    **given: Unpack[_HttpAppArguments],
) -> _App: ...
@overload
def with_persistence(
    server: _BuildsStreamableHttpApp[_App],
    /,
    url: str | None = None,
    **given: Unpack[_StreamableHttpAppArguments],
) -> _App: ...
@overload
def with_persistence(
    server: ASGIApp, /, url: str | None = None, **given: Unpack[_Arguments]
) -> PersistMiddleware: ...
def with_persistence(server: Any, /, url: str | None = None, **given: Any) -> Any:
    """The ASGI application of a server, with `PersistMiddleware` in front of it.

    A server object builds its application itself (`http_app()` of FastMCP, `streamable_http_app()`
    of the official SDK), and nothing in it is touched: authentication, the checks of Host and
    Origin and routes of your own stay as they are. What comes back is what was built, to be run,
    or to be mounted where the parent runs its lifespan: the store is open while that runs. Any
    other ASGI application is wrapped, not changed. At `/healthz`, `/healthz/live` and
    `/healthz/ready`, where the application that was built has no route, it says whether it can
    serve, unless `health_path=` says otherwise.

    Args:
        server: an `MCPServer`, a `FastMCP` of either kind, or an ASGI application.
        url: the store; from `MCP_PERSIST_URL` when it is left out.
        given: settings (see `SettingsArguments`; `log=` and `persistence=` as well), and
            whatever the builder takes: `json_response=`, `stateless_http=` …; `path=` under that
            name for every builder.

    Raises:
        ConfigurationError: it is neither a server nor an application, or an argument is neither a
            setting nor one of the builder's. What is wrong with the value of a setting is said
            when the server starts, as for `PersistMiddleware`.
    """
    settings = {name: value for name, value in given.items() if name in _OURS}
    others = {name: value for name, value in given.items() if name not in _OURS}
    build = getattr(server, "http_app", None) or getattr(server, "streamable_http_app", None)
    if inspect.isclass(server) or not callable(build or server):
        raise ConfigurationError(
            reason="with_persistence() takes an MCP server object or an ASGI application, not "
            f"{_described(server)}; pass what you would run"
        )
    if build is None:
        _refuse(others, "an application that is built already")
        return PersistMiddleware(server, url, **settings)
    return _wrapped(build(**_arguments(build, others)), url, settings)


def _wrapped(app: Any, url: str | None, settings: dict[str, Any]) -> Any:
    """What a server has built, with the middleware in it."""
    if not isinstance(app, Starlette):
        return PersistMiddleware(app, url, **settings)
    says_health = not is_given("health_path", settings)
    if "persistence" not in settings:
        settings = {"persistence": _lives_with(app, Persistence(url, **settings))}
        url = None
    app.add_middleware(PersistMiddleware, url=url, **settings)
    if says_health:
        _answer_health(app, settings["persistence"])
    return app


def _answer_health(app: Starlette, persistence: Persistence) -> None:
    """Say whether the worker can serve where the application would have answered 404: every route
    of its own goes before, whenever it is added."""
    inner = app.router.default

    async def default(scope: Scope, receive: Receive, send: Send) -> None:
        if (asked := health.page(health.PATH, scope)) is None:
            await inner(scope, receive, send)
        else:
            await health.respond(asked, persistence.health, scope, receive, send)

    app.router.default = default


def _lives_with(app: Starlette, persistence: Persistence) -> Persistence:
    """Open while the application's lifespan runs. Where it is mounted no ASGI message says so:
    there its parent runs the lifespan itself."""
    inner = app.router.lifespan_context

    @contextlib.asynccontextmanager
    async def lifespan(running: Any) -> AsyncIterator[Any]:
        async with persistence, inner(running) as state:
            try:
                yield state
            finally:
                # The application goes on until its calls have had their time.
                await persistence.drain()

    app.router.lifespan_context = lifespan
    return persistence


def _described(server: object) -> str:
    if inspect.isclass(server):
        return f"the class {server.__name__}"
    return f"an object of type {type(server).__name__}"


def _arguments(build: Callable[..., Any], others: Mapping[str, Any]) -> dict[str, Any]:
    """The builder's arguments, its path under the name that it has there."""
    taken = inspect.signature(build).parameters
    path = next((name for name in _PATHS if name in taken), "path")
    named = {path if name == "path" else name: value for name, value in others.items()}
    if not any(each.kind is inspect.Parameter.VAR_KEYWORD for each in taken.values()):
        unknown = {name: value for name, value in named.items() if name not in taken}
        _refuse(unknown, f"{build.__name__}({', '.join(taken)})")
    return named


def _refuse(unknown: Mapping[str, Any], takes: str) -> None:
    if unknown:
        raise ConfigurationError(
            reason=f"{', '.join(sorted(unknown))}: neither a setting nor an argument of {takes}; "
            "correct the name, or give it where the server is made"
        )
