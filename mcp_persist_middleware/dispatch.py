"""Where streams, sessions and the relay meet: a request is served where its session is, and there
for whichever kind of client asks."""

import asyncio
import contextlib
import dataclasses
import time
from dataclasses import dataclass
from functools import partial

from starlette.types import ASGIApp, Receive, Scope

from mcp_persist_middleware import admission, long_calls, rarely, telemetry
from mcp_persist_middleware.asgi import body as bodies
from mcp_persist_middleware.asgi import place_of
from mcp_persist_middleware.asgi.asked import Asked
from mcp_persist_middleware.asgi.body import Body
from mcp_persist_middleware.clients import LocalClient, Recipient, RelayedClient
from mcp_persist_middleware.errors import SessionElsewhereError, StoreError
from mcp_persist_middleware.model import SessionKey, SessionRecord
from mcp_persist_middleware.protocol import classify, event_id, jsonrpc
from mcp_persist_middleware.protocol.classify import RequestKind
from mcp_persist_middleware.protocol.eras import Era, era_of_initialize
from mcp_persist_middleware.relay import failures, sealing
from mcp_persist_middleware.relay.envelope import NotExecuted, Reply, RequestEnvelope
from mcp_persist_middleware.relay.forward import Forward
from mcp_persist_middleware.relay.outcome import RelayFailure
from mcp_persist_middleware.relay.route import Here, Home, SessionState, There, route
from mcp_persist_middleware.sessions.asking import Asking
from mcp_persist_middleware.sessions.layer import SessionLayer
from mcp_persist_middleware.streams import identity, listen, ownership, rerun, resume
from mcp_persist_middleware.streams.lease_guard import LeaseGuard
from mcp_persist_middleware.streams.stored_request import StoredRequest
from mcp_persist_middleware.tasks import faces, push, questions
from mcp_persist_middleware.tasks.core_service import note_reply
from mcp_persist_middleware.worker import Parts

logger = rarely.logger(__name__)

# A session that moves more often than this while one request looks for it is not found by it.
_MOVES = 4
_ASK_AGAIN = 0.1


@dataclass(frozen=True, slots=True)
class Dispatcher:
    """Serves the requests of one application on one worker."""

    app: LeaseGuard
    """The application without our sessions."""
    parts: Parts
    ground: Scope
    """What every request of this application has in its scope, wherever it comes from."""

    async def serve(self, head: classify.Request, scope: Scope, client: LocalClient) -> None:
        """Serve a request whose client is here."""
        context = self.parts.exchanges
        match head.kind:
            case RequestKind.FOREIGN_CURSOR:
                app = self._app(head.era)
                await resume.foreign_cursor(context, app, scope, client.send)
            case RequestKind.RESUME:
                await self._resume(head, scope, client)
            case _:
                asked = await self._read(head, scope, client)
                begins = asked.request.kind in (RequestKind.EXCHANGE, RequestKind.STREAM)
                if begins and admission.refuses(context):
                    await admission.unavailable(client.send)
                else:
                    await self._begin(asked, client)

    async def serve_relayed(self, envelope: RequestEnvelope, receive: Receive) -> Reply:
        """Serve a request of a session that is held here, for a client of another worker."""
        context, scope = self.parts.exchanges, envelope.scope_on(self.ground)
        load = context.settings.relay_scope
        if load is not None and envelope.outer is not None:
            load[1](scope, envelope.outer)
        body, cursor = Body.of(envelope.body), event_id.parse(envelope.cursor)
        request = admission.by_head(context.settings, context.memory, scope)
        if request.kind is RequestKind.BODY:
            request = admission.by_body(context, request, scope, body)
        elif scope["method"] == "GET" and request.kind is not RequestKind.PASS:
            # What may be answered with a stream is one here: nobody would read it to its end.
            request = dataclasses.replace(request, kind=RequestKind.STREAM)
        asked = Asked(request, scope, body)
        if cursor is not None:
            came_back = classify.Request(
                RequestKind.RESUME, request.era, request.session, cursor=cursor
            )
            asked = dataclasses.replace(asked, resume=Asked(came_back, scope, Body()))
        client = RelayedClient(context, receive)
        try:
            with telemetry.continued(envelope.trace):
                await self._here(asked, client)
        finally:
            client.close()
        return client.reply

    async def _begin(self, asked: Asked, client: LocalClient) -> None:
        """Answer with what an earlier request for the same began, or serve it in its session."""
        context, settings = self.parts.exchanges, self.parts.exchanges.settings
        if settings.idempotency or settings.hand_back or settings.session_fallback:
            app = self._app(asked.request.era)
            if await long_calls.joined(context, app, asked, client):
                return
            asked = await admission.in_latest_session(context, self.parts.sessions, app, asked)
        await self._in_session(asked, client)

    # What is asked.

    async def _read(self, head: classify.Request, scope: Scope, client: LocalClient) -> Asked:
        context = self.parts.exchanges
        if head.kind is RequestKind.STREAM:
            return Asked(head, scope, Body(complete=True))
        body = await bodies.read(client.rest, context.settings.max_body_bytes)
        if head.kind is RequestKind.BODY:
            head = admission.by_body(context, head, scope, body)
        return Asked(head, scope, body)

    async def _resume(self, head: classify.Request, scope: Scope, client: LocalClient) -> None:
        app, came_back = self._app(head.era), Asked(head, scope, Body(complete=True))
        try:
            left = await resume.resume(
                self.parts.exchanges, app, scope, head, client.rest, client.send
            )
        except SessionElsewhereError:
            # What is left is the session's stream, at its home.
            request = dataclasses.replace(head, kind=RequestKind.STREAM)
            await self._in_session(dataclasses.replace(came_back, request=request), client)
        else:
            if left is not None:
                kept = StoredRequest.unpack(left.request or b"")
                again = kept.request(head), kept.scope(scope), Body.of(kept.body)
                await self._in_session(Asked(*again, resume=came_back), client)

    # Where it is served.

    async def _in_session(self, asked: Asked, client: LocalClient) -> None:
        context, relay = self.parts.exchanges, self.parts.relay
        common = self.ground.get("state", {}).keys()
        forward = Forward(relay, context.settings, asked, client, common, context.memory.warned)
        retry_ms = context.settings.retry_ms
        with contextlib.closing(forward):
            for moves in range(_MOVES):
                is_here = not moves and self._is_held(asked)
                match Here() if is_here else await self._outcome(forward, moved=moves > 0):
                    case Here(takes_over):
                        with contextlib.suppress(SessionElsewhereError):
                            await self._here(asked, client, takes_over=takes_over)
                            return
                    case NotExecuted():
                        continue
                    case RelayFailure.UNKNOWN_OUTCOME if questions.only_asks(asked):
                        continue
                    case RelayFailure() as failure:
                        largest = relay.rooms.of_one
                        told = {"largest": largest, "retry_ms": retry_ms}
                        await failures.answer(failure, asked, client.send, **told)
                        return
                    case reply:
                        await client.read_reply(asked, reply)
                        return
            await failures.not_run(failures.MOVING, asked, client.send, retry_ms)

    async def _outcome(self, forward: Forward, *, moved: bool) -> Here | Reply | RelayFailure:
        """What has become of it on another worker, or that it is to be served here. Where the
        store fails nothing has been put, so one that stumbles is asked again; one that is known
        to be away is not.
        """
        context = self.parts.exchanges
        until = time.monotonic() + context.settings.store_timeout
        while True:
            try:
                state = await self._look(forward, moved=moved)
                while isinstance(way := route(state), There):
                    reply = await forward.put(way.record)
                    if not (isinstance(reply, NotExecuted) and reply.home_vacant):
                        return reply
                    state = SessionState(Home.VACANT)
                return way
            except StoreError as error:
                if not forward.asked.request.era.keeps_sessions:
                    # Where a session may mean nothing it is not waited for.
                    return Here()
                if context.writer.is_down or time.monotonic() + _ASK_AGAIN >= until:
                    logger.warning(
                        "MPM-RELAY-01: The worker of a session cannot be found or reached: %s",
                        error,
                    )
                    return RelayFailure.TIMEOUT
            await asyncio.sleep(_ASK_AGAIN)

    def _is_held(self, asked: Asked) -> bool:
        """Whether the session of a request is surely at home here: nobody need be asked."""
        request, registry = asked.request, self.parts.sessions
        if not request.session or self._is_contested(asked):
            return False
        return registry.held(registry.key(place_of(asked.scope), request.session)) is not None

    async def _look(self, forward: Forward, *, moved: bool) -> SessionState:
        """Where the session of a request is.

        Raises:
            StoreError: the store does not answer.
        """
        registry, asked = self.parts.sessions, forward.asked
        request, key = asked.request, await self._session_of(asked)
        if key is None or registry.is_local:
            return SessionState(Home.NOWHERE)
        held = registry.held(key)
        if held is not None and self._is_contested(asked):
            held = await registry.check(held)
        if held is not None:
            return SessionState(Home.HERE)
        record = await registry.seen(key, anew=moved)
        asks = request.kind in (RequestKind.EXCHANGE, RequestKind.STREAM)
        if record is None or await registry.is_free(record, asks=asks):
            return SessionState(Home.NOWHERE)
        if await forward.may_travel(record):
            return SessionState(Home.ELSEWHERE, record)
        is_to_a_call = asked.body.complete and jsonrpc.is_to_a_call(asked.body.content)
        return SessionState(Home.ELSEWHERE, record, may_travel=False, is_to_a_call=is_to_a_call)

    async def _session_of(self, asked: Asked) -> SessionKey | None:
        """The session of a request: the one that it names, or the question that it answers."""
        request, place, registry = asked.request, place_of(asked.scope), self.parts.sessions
        if request.session:
            return registry.key(place, request.session)
        if not (state := await questions.state_of(self.parts.exchanges, asked)):
            return None
        credential = identity.credential(self.parts.exchanges, asked.scope)
        return registry.rounds.key(place, credential, state)

    def _is_contested(self, asked: Asked) -> bool:
        """Whether other workers take this session over from a home that lives."""
        if self.parts.exchanges.settings.session_routing == "revive":
            return True
        return not sealing.is_available() and asked.is_secret

    # How it is served here.

    async def _here(self, asked: Asked, client: Recipient, *, takes_over: bool = False) -> None:
        """Have the application answer.

        Raises:
            SessionElsewhereError: another worker is the session's home. Nothing was run or sent.
        """
        asked, context = asked.again(), self.parts.exchanges
        request, scope, send = asked.request, asked.scope, client.send
        app = self._app(request.era, takes_over=takes_over)
        match request.kind:
            case RequestKind.EXCHANGE if asked.resume is not None:
                await self._run_again(app, asked, client)
            case RequestKind.LISTEN:
                await push.serve(context, self.app, asked, client, send)
            case RequestKind.EXCHANGE:
                await long_calls.run(context, app, self.app, asked, client)
            case RequestKind.STREAM:
                point = await listen.find(context, app, scope, request, client, send)
                if point is not None:
                    await client.follow(asked, point)
            case RequestKind.DELETE:
                await long_calls.end_session(self.parts, app, self.app, asked, client)
            case _:
                note_reply(context, asked)
                if not request.session and b'"initialize"' not in asked.body.content:
                    app = self.app
                await app(scope, bodies.replay(asked.body, client.rest), send)

    async def _run_again(self, app: ASGIApp, asked: Asked, client: Recipient) -> None:
        context = self.parts.exchanges
        position = asked.resume.request.cursor if asked.resume is not None else None
        assert position is not None
        try:
            runs = partial(faces.again, context, app, self.app, asked)
            refusal = await rerun.begin(
                context, app, asked.scope, asked.request, asked.body, position.stream, runs
            )
        except StoreError:
            await resume.later(context, client.send)
        else:
            await (client.read_on(asked) if refusal is None else refusal.pass_on(client.send))

    def _app(self, era: Era, *, takes_over: bool = False) -> ASGIApp:
        """The application as requests of an era may call it."""
        context, registry = self.parts.exchanges, self.parts.sessions
        callers, site = ownership.Callers(context), self.serve_relayed
        sessions = era.keeps_sessions
        layer = SessionLayer(
            self.app, registry, callers, site, self._came_back, takes_over, has_sessions=sessions
        )
        if sessions or not context.member.peers.has_peers(context.member.name):
            return layer
        return Asking(layer, registry.rounds, callers, site)

    async def _came_back(self, record: SessionRecord, scope: Scope) -> None:
        """A session has its stream again before anything else runs in it."""
        era, context = era_of_initialize(record.version), self.parts.exchanges
        await listen.open_unread(context, self._app(era), scope, era, record.key)
