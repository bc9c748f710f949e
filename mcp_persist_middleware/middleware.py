"""The ASGI entry: guard, classify, dispatch."""

import logging
from typing import Unpack

from starlette.types import ASGIApp, Receive, Scope, Send

from mcp_persist_middleware import admission, health
from mcp_persist_middleware.asgi import EXTENSION, with_extension
from mcp_persist_middleware.asgi.attempt import Attempt
from mcp_persist_middleware.clients import LocalClient
from mcp_persist_middleware.dispatch import Dispatcher
from mcp_persist_middleware.errors import ConfigurationError, LeaseLostError, NotAsgiError
from mcp_persist_middleware.lifespan import Lifespan
from mcp_persist_middleware.log.base import MakeLog
from mcp_persist_middleware.passing import Passing
from mcp_persist_middleware.persistence import Persistence, access_to, one_of
from mcp_persist_middleware.protocol import classify
from mcp_persist_middleware.protocol.classify import RequestKind
from mcp_persist_middleware.settings import Settings, SettingsArguments, shown
from mcp_persist_middleware.streams.lease_guard import LeaseGuard, refuse
from mcp_persist_middleware.worker import Parts

logger = logging.getLogger(__name__)

_DEFAULTS = Settings()


class PersistMiddleware:
    """Makes the streams of any Streamable-HTTP MCP application survive their connections.

    `app.add_middleware(PersistMiddleware, url="sqlite+aiosqlite:///events.db")` on Starlette and
    FastAPI, or `PersistMiddleware(app, url=...)` around any ASGI application. Everything that is
    not MCP passes through untouched. Settings are checked at start-up: a wrong one fails the
    lifespan, so that the server does not start (see `Settings` for all of them). Where no lifespan
    is seen MCP requests are refused then, and where the store cannot be opened they go on without
    it (`on_store_failure`).

    Args:
        url: the store, any SQLAlchemy URL or a file name.
        log: a store of yours instead of `url`, see `Persistence`.
        persistence: a `Persistence` of yours instead of `url` and settings.
        settings: see `SettingsArguments`.

    Raises:
        ConfigurationError: `app` is no application: a server object, for one.
    """

    def __init__(
        self,
        app: ASGIApp,
        /,
        url: str | None = None,
        *,
        log: MakeLog | None = None,
        persistence: Persistence | None = None,
        **settings: Unpack[SettingsArguments],
    ) -> None:
        if not callable(app):
            raise ConfigurationError(
                reason="PersistMiddleware takes an ASGI application, not an object of type "
                f"{type(app).__name__}; for a server object there is with_persistence(server), and "
                "its add_middleware() takes no ASGI middleware"
            )
        # No setting is checked here: Starlette makes its middleware inside the lifespan call, and a
        # server takes an exception there for an application without a lifespan.
        self.app = app
        self.persistence = one_of(Persistence(url, log=log, **settings), persistence)
        self._access = access_to(self.persistence)
        self._passing = Passing(app)
        self._warned: set[str] = set()
        # What every request of this application has in its scope, wherever it comes from.
        self._base_scope: Scope = {}

    def __repr__(self) -> str:
        return f"PersistMiddleware({shown('app', self.app)}, {self.persistence!r})"

    async def __call__(self, scope: Scope, receive: Receive, send: Send | None = None) -> None:
        """Serve what an ASGI server has for the application.

        Raises:
            NotAsgiError: it is called as middleware of an MCP server, which sends by itself.
        """
        if send is None:
            raise NotAsgiError(given=type(scope).__name__)
        if EXTENSION in scope.get("extensions", {}):
            self._step_aside()
            await self.app(scope, receive, send)
        elif (asked := health.page(self._settings.health_path, scope)) is not None:
            await health.respond(asked, self.persistence.health, scope, receive, send)
        elif not self._settings.enabled:
            await self.app(scope, receive, send)
        elif scope["type"] == "lifespan":
            self._base_scope["state"] = scope.get("state", {})
            await Lifespan(self.app, self.persistence)(with_extension(scope), receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def aclose(self) -> None:
        """Close the store where no lifespan does it (a mounted application)."""
        await self.persistence.aclose()

    def _step_aside(self) -> None:
        if "twice" not in self._warned:
            self._warned.add("twice")
            logger.warning(
                "MPM-CONFIG-09: PersistMiddleware is applied twice; the inner one does nothing"
            )

    @property
    def _settings(self) -> Settings:
        """The settings; the defaults where they are wrong, which the start says."""
        try:
            return self._access.settings
        except ConfigurationError:
            return _DEFAULTS

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        if "app" in scope:
            self._base_scope["app"] = scope["app"]
        try:
            request = admission.by_head(self._settings, self._access.memory, scope)
        except Exception as error:  # noqa: BLE001
            self._passing.count(error)
            request = classify.PASS
        if request.kind is RequestKind.PASS:
            await self.app(scope, receive, send)
            return
        attempt = Attempt(receive, send)
        with attempt:
            await self._serve(request, scope, attempt)

    async def _serve(self, request: classify.Request, scope: Scope, attempt: Attempt) -> None:
        """Serve a request of ours, or let it go on without us where nobody has had it."""
        parts: Parts | None = None
        try:
            parts = await self._access.parts()
            await self._with_lease(parts, request, scope, attempt)
            return
        except LeaseLostError as error:
            if attempt.is_answered:
                raise
            trouble: Exception = error
        except Exception as error:
            if attempt.is_spent:
                raise
            trouble = error
        # Outside of the handlers: what the application raises now is not a consequence of ours.
        if isinstance(trouble, LeaseLostError):
            await refuse(attempt.send)
        else:
            await self._passing.go_on(trouble, self._settings, parts, request, scope, attempt)

    async def _with_lease(
        self, parts: Parts, request: classify.Request, scope: Scope, attempt: Attempt
    ) -> None:
        """A lease that is lost before anybody has the request costs a moment, unless its session
        may be at another worker by now."""
        while True:
            if not parts.exchanges.holds_lease:
                parts = await self._access.held()
                if request.session and self._access.was_taken:
                    raise LeaseLostError
            attempt.rewind()
            try:
                await self._dispatched(parts, request, scope, attempt)
            except LeaseLostError:
                if attempt.is_spent:
                    raise
            else:
                return

    async def _dispatched(
        self, parts: Parts, request: classify.Request, scope: Scope, attempt: Attempt
    ) -> None:
        settings = parts.exchanges.settings
        marked = with_extension(scope, namespace=admission.namespace(settings, scope))
        client = LocalClient(parts.exchanges, attempt.receive, attempt.send)
        guarded = LeaseGuard(parts.exchanges, self.app)
        try:
            await Dispatcher(guarded, parts, self._base_scope).serve(request, marked, client)
        finally:
            client.close()
