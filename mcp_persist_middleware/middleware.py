"""The ASGI entry: lifespan, classify, dispatch."""

import dataclasses
import logging
from collections.abc import MutableMapping
from functools import partial
from typing import Any

from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mcp_persist_middleware.asgi import EXTENSION, path_of
from mcp_persist_middleware.errors import PersistError, StoreError
from mcp_persist_middleware.exchange import body as bodies
from mcp_persist_middleware.exchange import identity, resume, serve
from mcp_persist_middleware.exchange.context import Context
from mcp_persist_middleware.lifespan import Lifespan
from mcp_persist_middleware.protocol import classify
from mcp_persist_middleware.protocol.classify import Kind
from mcp_persist_middleware.runtime import Persistence
from mcp_persist_middleware.sessions.layer import SessionLayer

logger = logging.getLogger(__name__)


class PersistMiddleware:
    """Makes the streams of any Streamable-HTTP MCP application survive their connections.

    `app.add_middleware(PersistMiddleware, url="sqlite+aiosqlite:///events.db")` on Starlette and
    FastAPI, or `PersistMiddleware(app, url=...)` around any ASGI application. Everything that is
    not MCP passes through untouched. Settings are checked at start-up: a wrong one fails the
    lifespan, so that the server does not start (see `Settings` for all of them).

    Args:
        persistence: a `Persistence` of yours instead of `url` and settings.
    """

    def __init__(
        self,
        app: ASGIApp,
        /,
        url: str | None = None,
        *,
        persistence: Persistence | None = None,
        **settings: Any,
    ) -> None:
        # Nothing is checked here: Starlette makes its middleware inside the lifespan call, and a
        # server takes an exception there for an application without a lifespan.
        self.app = app
        if persistence is not None:
            persistence = persistence.narrowed(url, settings)
        self.persistence = persistence or Persistence(url, **settings)
        self._said: set[str] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if EXTENSION in scope.get("extensions", {}):
            self._step_aside()
            await self.app(scope, receive, send)
        elif scope["type"] == "lifespan":
            await Lifespan(self.app, self.persistence)(_marked(scope), receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def aclose(self) -> None:
        """Close the store where no lifespan does it (a mounted application)."""
        await self.persistence.aclose()

    def _step_aside(self) -> None:
        if "twice" not in self._said:
            self._said.add("twice")
            logger.warning("PersistMiddleware is applied twice; the inner one does nothing")

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            parts = await self.persistence.parts()
        except PersistError as error:
            if "failed" not in self._said:
                self._said.add("failed")
                logger.error("%s", error)
            await _unavailable(scope, receive, send)
            return
        context = parts.exchanges
        request = self._classify(context, scope)
        if request.kind is Kind.PASS:
            await self.app(scope, receive, send)
            return
        app = self.app
        if request.era.sessions:
            app = SessionLayer(app, parts.sessions, partial(identity.principal, context))
        await self._dispatch(context, app, request, scope, receive, send)

    def _classify(self, context: Context, scope: Scope) -> classify.Request:
        settings, path = context.settings, path_of(scope)
        if settings.paths is not None and not any(
            path.rstrip("/") == prefix or path.startswith(prefix.rstrip("/") + "/")
            for prefix in settings.paths
        ):
            return classify.PASS
        request = classify.by_head(
            scope["method"],
            scope["headers"],
            known_path=context.memory.speaks_mcp(path),
            modern=settings.modern_streams == "resume",
        )
        if request.kind is not Kind.PASS and settings.persist is not None:
            return request if settings.persist(HTTPConnection(scope)) else classify.PASS
        return request

    async def _dispatch(
        self,
        context: Context,
        app: ASGIApp,
        request: classify.Request,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        scope = _marked(scope)
        match request.kind:
            case Kind.BODY:
                await self._post(context, app, request, scope, receive, send)
            case Kind.STREAM if not _refuses(context):
                await serve.session_stream(context, app, scope, request, receive, send)
            case Kind.RESUME:
                await resume.resume(context, app, scope, request, receive, send)
            case Kind.FOREIGN_CURSOR:
                await resume.foreign_cursor(context, app, scope, send)
            case Kind.DELETE:
                await self._delete(context, app, request, scope, receive, send)
            case Kind.STREAM:
                await _unavailable(scope, receive, send)
            case Kind.PASS | Kind.EXCHANGE:
                await self.app(scope, receive, send)

    async def _post(
        self,
        context: Context,
        app: ASGIApp,
        head: classify.Request,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        body = await bodies.read(receive, context.settings.max_body_bytes)
        if body.complete:
            known = context.memory.speaks_mcp(path_of(scope))
            request = classify.by_body(head, scope["headers"], body.content, known_path=known)
            if request.kind is Kind.EXCHANGE:
                if _refuses(context):
                    await _unavailable(scope, receive, send)
                else:
                    await serve.exchange(context, app, scope, request, body, receive, send)
                return
        if not head.session and b'"initialize"' not in body.content:
            app = self.app
        await app(scope, bodies.replay(body, receive), send)

    async def _delete(
        self,
        context: Context,
        app: ASGIApp,
        request: classify.Request,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        async def watch(message: Message) -> None:
            if message["type"] == "http.response.start" and 200 <= message["status"] < 300:
                await _forget(context, path_of(scope), request.session)
            await send(message)

        await app(scope, receive, watch)


async def _forget(context: Context, path: str, session: str) -> None:
    """A deleted session's streams are gone before its client hears of the deletion."""
    for stream in context.writer.live.values():
        owner = stream.record.owner
        if owner.session == session and owner.path == path:
            stream.record = dataclasses.replace(stream.record, expires_at=0.0)
    try:
        await context.log.forget_session(context.settings.namespace, path, session)
    except StoreError as error:
        logger.warning("The streams of a deleted session stay until they expire: %s", error)


def _refuses(context: Context) -> bool:
    return context.writer.is_down and context.settings.on_store_failure == "refuse"


def _marked(scope: Scope) -> Scope:
    """The scope for what is inside, so that a second middleware there steps aside."""
    extensions: MutableMapping[str, Any] = {**scope.get("extensions", {}), EXTENSION: {}}
    return {**scope, "extensions": extensions}


async def _unavailable(scope: Scope, receive: Receive, send: Send) -> None:
    error = {"code": -32000, "message": "The event store is unavailable"}
    body = {"jsonrpc": "2.0", "id": None, "error": error}
    await JSONResponse(body, 503, headers={"Retry-After": "5"})(scope, receive, send)
