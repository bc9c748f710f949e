"""The ASGI entry: lifespan, classify, dispatch."""

import dataclasses
import logging
from functools import partial
from typing import Any

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mcp_persist_middleware import admission, relayed, relaying, telemetry
from mcp_persist_middleware.asgi import EXTENSION, path_of, place_of, with_extension
from mcp_persist_middleware.asgi import body as bodies
from mcp_persist_middleware.asgi.attempt import Attempt
from mcp_persist_middleware.asgi.body import Body
from mcp_persist_middleware.errors import (
    ConfigurationError,
    LeaseLostError,
    SessionElsewhereError,
    StoreError,
)
from mcp_persist_middleware.lifespan import Lifespan
from mcp_persist_middleware.log.base import MakeLog
from mcp_persist_middleware.model import SessionKey, StreamRecord
from mcp_persist_middleware.passing import Passing
from mcp_persist_middleware.persistence import Persistence
from mcp_persist_middleware.protocol import classify, event_id, headers
from mcp_persist_middleware.protocol.classify import Kind
from mcp_persist_middleware.protocol.eras import Era
from mcp_persist_middleware.relay.envelope import Reply, RequestEnvelope
from mcp_persist_middleware.sessions.layer import SessionLayer
from mcp_persist_middleware.settings import Settings
from mcp_persist_middleware.streams import listen, ownership, remote, rerun, resume, serve
from mcp_persist_middleware.streams.lease_guard import LeaseGuard, refuse
from mcp_persist_middleware.streams.memory import Memory
from mcp_persist_middleware.streams.stored_request import StoredRequest
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
        log: a store of yours instead of `url`, see `Persistence`.
        persistence: a `Persistence` of yours instead of `url` and settings.
    """

    def __init__(
        self,
        app: ASGIApp,
        /,
        url: str | None = None,
        *,
        log: MakeLog | None = None,
        persistence: Persistence | None = None,
        **settings: Any,
    ) -> None:
        if log is not None:
            settings["log"] = log
        # Nothing is checked here: Starlette makes its middleware inside the lifespan call, and a
        # server takes an exception there for an application without a lifespan.
        self.app = app
        if persistence is not None:
            persistence = persistence.narrowed(url, settings)
        self.persistence = persistence or Persistence(url, **settings)
        self._passing = Passing(app)
        self._warned: set[str] = set()
        # What every request of this application has in its scope, wherever it comes from.
        self._base_scope: Scope = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if EXTENSION in scope.get("extensions", {}):
            self._step_aside()
            await self.app(scope, receive, send)
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
            logger.warning("PersistMiddleware is applied twice; the inner one does nothing")

    @property
    def _settings(self) -> Settings:
        """The settings; the defaults where they are wrong, which the start says."""
        try:
            return self.persistence.settings
        except ConfigurationError:
            return _DEFAULTS

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        if "app" in scope:
            self._base_scope["app"] = scope["app"]
        try:
            request = self._classify(self._settings, self.persistence.memory, scope)
        except Exception as error:  # noqa: BLE001
            self._passing.count(error)
            request = classify.PASS
        if request.kind is Kind.PASS:
            await self.app(scope, receive, send)
            return
        attempt = Attempt(receive, send)
        with attempt.under_way():
            await self._serve(request, scope, attempt)

    async def _serve(self, request: classify.Request, scope: Scope, attempt: Attempt) -> None:
        """Serve a request of ours, or let it go on without us where nobody has had it."""
        parts: Parts | None = None
        try:
            parts = await self.persistence.parts()
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
                parts = await self.persistence.held()
                if request.session and self.persistence.was_taken:
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
        namespace = admission.namespace(parts.exchanges.settings, scope)
        marked = with_extension(scope, namespace=namespace)
        await self._dispatch(parts, request, marked, attempt.receive, attempt.send)

    def _app(self, parts: Parts, era: Era, *, takes_over: bool = False) -> ASGIApp:
        """The application as requests of an era may call it."""
        context = parts.exchanges
        app: ASGIApp = LeaseGuard(context, self.app)
        callers, site = ownership.Callers(context), partial(self._from_elsewhere, parts)

        async def revived(key: SessionKey, scope: Scope) -> None:
            await listen.open_unread(context, self._app(parts, era), scope, era, key)

        return SessionLayer(
            app, parts.sessions, callers, site, revived, takes_over, has_sessions=era.sessions
        )

    def _classify(self, settings: Settings, memory: Memory, scope: Scope) -> classify.Request:
        path = path_of(scope)
        if settings.paths is not None and not any(
            path.rstrip("/") == prefix or path.startswith(prefix.rstrip("/") + "/")
            for prefix in settings.paths
        ):
            return classify.PASS
        request = classify.by_head(
            scope["method"],
            scope["headers"],
            known_path=memory.speaks_mcp(path),
            modern=settings.modern_streams == "resume",
        )
        if request.kind is not Kind.PASS and settings.persist is not None:
            return request if settings.persist(HTTPConnection(scope)) else classify.PASS
        return request

    async def _dispatch(
        self, parts: Parts, request: classify.Request, scope: Scope, receive: Receive, send: Send
    ) -> None:
        context = parts.exchanges
        match request.kind:
            case Kind.BODY | Kind.SESSION:
                await self._post(parts, request, scope, receive, send)
            case Kind.STREAM if not admission.refuses(context):
                await self._stream(parts, request, scope, receive, send)
            case Kind.RESUME:
                await self._resume(parts, request, scope, receive, send)
            case Kind.FOREIGN_CURSOR:
                await resume.foreign_cursor(context, self._app(parts, request.era), scope, send)
            case Kind.DELETE:
                await self._delete(parts, request, scope, receive, send)
            case Kind.STREAM:
                await admission.unavailable(send)
            case Kind.PASS | Kind.EXCHANGE:
                await self._app(parts, request.era)(scope, receive, send)

    async def _resume(
        self, parts: Parts, request: classify.Request, scope: Scope, receive: Receive, send: Send
    ) -> None:
        app = self._app(parts, request.era)
        try:
            left = await resume.resume(parts.exchanges, app, scope, request, receive, send)
        except SessionElsewhereError:
            # What is left is the session's stream, at its home.
            asked = dataclasses.replace(request, kind=Kind.STREAM)
            await self._stream(parts, asked, scope, receive, send)
        else:
            if left is not None:
                await self._run_again(parts, request, left, scope, receive, send)

    async def _run_again(
        self,
        parts: Parts,
        request: classify.Request,
        left: StreamRecord,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        context, kept = parts.exchanges, StoredRequest.unpack(left.request or b"")
        asked, question = kept.request(request), kept.scope(scope)
        body = admission.whole(kept.body)

        async def here(rest: Receive, *, takes_over: bool) -> None:
            app = self._app(parts, request.era, takes_over=takes_over)
            marked, again_body = with_extension(question), body.again()
            try:
                refusal = await rerun.begin(context, app, marked, asked, again_body, left.id)
                if refusal is not None:
                    await refusal.pass_on(send)
                    return
            except StoreError:
                await resume.later(context, send)
                return
            await resume.go_on(context, scope, request, rest, send)

        at_home = self._in_session(parts, asked, question, body, receive, send)
        at_home.again = headers.get(scope["headers"], headers.LAST_EVENT_ID) or ""
        await at_home.run(here)

    async def _stream(
        self, parts: Parts, request: classify.Request, scope: Scope, receive: Receive, send: Send
    ) -> None:
        async def here(rest: Receive, *, takes_over: bool) -> None:
            app = self._app(parts, request.era, takes_over=takes_over)
            marked = with_extension(scope)
            await listen.serve_stream(parts.exchanges, app, marked, request, rest, send)

        nothing = Body(complete=True)
        await self._in_session(parts, request, scope, nothing, receive, send).run(here)

    async def _post(
        self, parts: Parts, head: classify.Request, scope: Scope, receive: Receive, send: Send
    ) -> None:
        context = parts.exchanges
        body = await bodies.read(receive, context.settings.max_body_bytes)
        request = head
        if head.kind is Kind.BODY:
            request = admission.by_body(context, head, scope, body)
        if request.kind is Kind.EXCHANGE and admission.refuses(context):
            await admission.unavailable(send)
            return

        async def here(rest: Receive, *, takes_over: bool) -> None:
            app = self._app(parts, request.era, takes_over=takes_over)
            marked, again = with_extension(scope), body.again()
            if request.kind is Kind.EXCHANGE:
                await serve.exchange(context, app, marked, request, again, rest, send)
                return
            if not head.session and b'"initialize"' not in body.content:
                app = LeaseGuard(context, self.app)
            await app(marked, bodies.replay(again, rest), send)

        await self._in_session(parts, request, scope, body, receive, send).run(here)

    async def _delete(
        self, parts: Parts, request: classify.Request, scope: Scope, receive: Receive, send: Send
    ) -> None:
        context = parts.exchanges
        body = await bodies.read(receive, context.settings.max_body_bytes)

        async def watch(message: Message) -> None:
            if message["type"] == "http.response.start" and 200 <= message["status"] < 300:
                await admission.forget(context, place_of(scope), request.session)
            await send(message)

        async def here(rest: Receive, *, takes_over: bool) -> None:
            app = self._app(parts, request.era, takes_over=takes_over)
            await app(with_extension(scope), bodies.replay(body.again(), rest), watch)

        await self._in_session(parts, request, scope, body, receive, send).run(here)

    def _in_session(
        self,
        parts: Parts,
        request: classify.Request,
        scope: Scope,
        body: Body,
        receive: Receive,
        send: Send,
    ) -> relaying.Request:
        state = self._base_scope.get("state", {})
        return relaying.Request(parts, request, scope, body, receive, send, state)

    async def _from_elsewhere(
        self, parts: Parts, envelope: RequestEnvelope, receive: Receive
    ) -> Reply:
        """Run a request of a session that is held here for a client of another worker."""
        context = parts.exchanges
        scope = relayed.scope_of(parts, envelope, self._base_scope)
        body, cursor = admission.whole(envelope.body), event_id.parse(envelope.again)
        head = self._classify(context.settings, context.memory, scope)
        request = (
            head if head.kind is not Kind.BODY else admission.by_body(context, head, scope, body)
        )
        app, collected = self._app(parts, request.era), relayed.Collected(context.settings)
        found: remote.Remote | None = None
        with telemetry.continued(relayed.carrier(scope)):
            match request.kind:
                case Kind.EXCHANGE if cursor is not None:
                    found = await remote.begin_again(
                        context, app, scope, request, body, cursor, collected
                    )
                case Kind.EXCHANGE:
                    found = await remote.begin(
                        context, app, scope, request, body, receive, collected
                    )
                case Kind.STREAM | Kind.RESUME | Kind.FOREIGN_CURSOR | Kind.SESSION if (
                    scope["method"] == "GET"
                ):
                    found = await remote.begin_session_stream(
                        context, app, scope, request, receive, collected
                    )
                case Kind.DELETE:
                    rest = bodies.replay(body, receive)
                    await self._delete(parts, request, scope, rest, collected)
                case _:
                    await app(scope, bodies.replay(body, receive), collected)
        return collected.reply if found is None else relayed.streamed(found)
