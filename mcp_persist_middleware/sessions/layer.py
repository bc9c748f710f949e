"""The application with sessions that last: a public id stands for whichever session of the
application is behind it just now."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from starlette.types import ASGIApp, Receive, Scope, Send

from mcp_persist_middleware import asgi, rarely
from mcp_persist_middleware.asgi.body import Repeatable
from mcp_persist_middleware.errors import SessionElsewhereError, StoreError
from mcp_persist_middleware.model import SessionKey, SessionRecord
from mcp_persist_middleware.protocol import headers
from mcp_persist_middleware.sessions.beginning import Beginning
from mcp_persist_middleware.sessions.forgotten import ComparableAnswer, asked, made_up, unknown
from mcp_persist_middleware.sessions.local import LocalSession, Site
from mcp_persist_middleware.sessions.registry import Registry
from mcp_persist_middleware.sessions.revive import AsksCallers, count_refused, revive
from mcp_persist_middleware.sessions.rewrite import RequestRewriter

logger = rarely.logger(__name__)

_ID = headers.SESSION_ID
# What differs between requests of one client.
_OF_ONE_REQUEST = frozenset({
    b"accept",
    b"content-length",
    b"content-type",
    b"last-event-id",
    b"traceparent",
    b"tracestate",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class SessionLayer:
    """An ASGI application around the application: whoever names a session speaks in it.

    Routing decides by what this worker knows: a session that is held here is served; one that
    only the store knows is brought back first; any other is the application's to refuse.

    Raises:
        SessionElsewhereError: another worker is the session's home. Nothing was run or sent.
    """

    app: ASGIApp
    registry: Registry
    callers: AsksCallers
    site: Site
    """Runs requests of other workers for the sessions that begin or come back here."""
    revived: Callable[[SessionRecord, Scope], Awaitable[None]]
    """Called when a request has brought its session back, before it is served itself."""
    takes_over: bool = False
    """Whether a session comes here even from a home that lives."""
    has_sessions: bool = True
    """Whether the request's era has any. In one that has none an id means nothing to an
    application that knows the era; another goes by the session all the same."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Repeatable(receive, self.registry.max_body_bytes)
        public = headers.get(scope["headers"], _ID)
        if public is not None:
            key = self.registry.key(asgi.place_of(scope), public)
            await self._go_on(key, scope, request, send)
        elif scope["method"] == "POST" and self.has_sessions:
            await self.app(scope, request.receive, self._beginning(scope, request, send))
        else:
            await self.app(scope, receive, send)

    def _beginning(self, scope: Scope, request: Repeatable, send: Send) -> Beginning:
        return Beginning(self.registry, self.callers, self.site, scope, request, send)

    # A session that has begun before.

    async def _go_on(self, key: SessionKey, scope: Scope, request: Repeatable, send: Send) -> None:
        held = self.registry.held(key)
        if held is None:
            held = await self._bring_back(key, scope, request, send)
        if held is None:
            return
        refusal = await self._turn(held, scope, request, send)
        if refusal is None:
            return
        renewed, unknown = await self._renewed(held, scope)
        if (
            renewed is not None
            and request.can_repeat
            and ComparableAnswer.of(refusal, held.inner) == unknown
        ):
            # Whoever does not know the session has run nothing in it.
            refusal = await self._turn(renewed, scope, request.again(), send)
        if refusal is not None:
            await refusal.pass_on(send)

    async def _turn(
        self, held: LocalSession, scope: Scope, request: Repeatable, send: Send
    ) -> asgi.Answer | None:
        begins = self._beginning(scope, request, send)
        return await RequestRewriter(self.app, self.registry, held, scope, request, begins).run(
            send
        )

    async def _renewed(
        self, held: LocalSession, scope: Scope
    ) -> tuple[LocalSession | None, ComparableAnswer | None]:
        """The session, made anew because the application has forgotten it: it was idle for too
        long. And what the application says of one that it does not know.

        Only the owner's request can show that: what the application says to a stranger is about
        the stranger. When in doubt the session stays as it is.
        """
        nothing = None, None
        if _is_probe(scope) or self.registry.is_local or not self.registry.may_revive(scope):
            return nothing
        key, version = held.record.key, held.record.version
        if not await self._owns(scope, held.record):
            return nothing
        async with self.registry.revivals.lock(key):
            if (now := self.registry.held(key)) is not held:
                return now, await unknown(self.app, scope, made_up(), version)
            said = await unknown(self.app, scope, held.inner, version)
            if said is None:
                return nothing
            try:
                record = await self.registry.find(key)
                found = record and await revive(
                    self.registry, self.app, scope, record, self.callers, said
                )
            except StoreError as error:
                logger.warning(
                    "MPM-SESSION-03: A session that was forgotten cannot be looked up: %s", error
                )
                return nothing
        if not isinstance(found, LocalSession):
            return nothing
        await self._came_back(found, scope)
        return found, said

    async def _came_back(self, held: LocalSession, scope: Scope) -> None:
        held.site = self.site
        if scope["method"] != "GET":
            version = headers.PROTOCOL_VERSION, held.record.version
            asked = {**scope, "headers": headers.replaced(scope["headers"], *version)}
            await self.revived(held.record, asked)

    async def _bring_back(
        self, key: SessionKey, scope: Scope, request: Repeatable, send: Send
    ) -> LocalSession | None:
        """The session, held here from now on. Without one the client has been answered: with
        what the application says to a session that it does not know, or to this caller."""
        found: LocalSession | asgi.Answer | None
        try:
            if scope["method"] == "DELETE":
                await self.registry.settle(key)
            found = await self._revived(key, scope)
        except StoreError as error:
            logger.warning("MPM-SESSION-03: A session cannot be looked up: %s", error)
            if self.has_sessions:
                await asgi.unavailable(send, "The session store is unavailable")
            else:
                await self._refuse(scope, request, send)
            return None
        match found:
            case LocalSession():
                return found
            case asgi.Answer():
                await found.pass_on(send)
            case _:
                await self._refuse(scope, request, send)
        return None

    async def _revived(self, key: SessionKey, scope: Scope) -> LocalSession | asgi.Answer | None:
        """The session, if whoever asks for it owns it. A stranger costs one question, however many
        ask alike, and the owner does not wait behind that."""
        is_elsewheres = self.registry.is_local and not self.registry.was_left(key)
        if _is_probe(scope) or is_elsewheres:
            return None
        async with self.registry.revivals.lock(self._alike(key, scope)):
            # Of many requests that come together the first one does it.
            if (held := self.registry.held(key)) is not None:
                return held
            record = await self.registry.find(key)
            if record is None or not await self._may_come(record, scope):
                return None
            refused = await self._is_refused(record, scope)
            if refused is not None:
                return refused if refused.messages else None
            return await self._of_its_owner(record, scope)

    async def _may_come(self, record: SessionRecord, scope: Scope) -> bool:
        """Whether a session may come here. What the application has still has never left."""
        if self.registry.is_left(record):
            return True
        if self.registry.is_local:
            return False
        if not (self.takes_over or await self.registry.is_free(record)):
            raise SessionElsewhereError
        return self.registry.may_revive(scope)

    async def _of_its_owner(
        self, record: SessionRecord, scope: Scope
    ) -> LocalSession | asgi.Answer | None:
        key = record.key
        async with self.registry.revivals.lock(key):
            if (held := self.registry.held(key)) is not None:
                return held
            if self.registry.is_left(record):
                found: LocalSession | asgi.Answer | None = await self.registry.take_back(record)
            else:
                found = await revive(self.registry, self.app, scope, record, self.callers)
        if isinstance(found, LocalSession):
            await self._came_back(found, scope)
        elif found is None:
            now = await self.registry.find(key)
            if now is not None and now.generation != record.generation:
                # Another worker was faster.
                raise SessionElsewhereError
        return found

    async def _is_refused(self, record: SessionRecord, scope: Scope) -> asgi.Answer | None:
        """What the client hears if it is not the session's owner: the application's own refusal,
        or (an answer without messages) what it says of a session that it does not know."""
        alike = self._alike(record.key, scope)
        if self.registry.revivals.was_refused(alike):
            return asgi.Answer()
        question, answer = await asked(self.app, scope, made_up(), record.version)
        if answer.status in asgi.REFUSALS or answer.status >= 500:
            return answer
        if await self._owns(question, record):
            return None
        count_refused(record)
        self.registry.revivals.refuse(alike)
        return asgi.Answer()

    async def _owns(self, asked: Scope, record: SessionRecord) -> bool:
        return await self.callers.owns(self.app, asked, asked, record.principal)

    def _alike(self, key: SessionKey, scope: Scope) -> tuple[object, ...]:
        """Requests with the same are told the same of a session."""
        said = tuple(pair for pair in scope["headers"] if pair[0] not in _OF_ONE_REQUEST)
        client, query = (scope.get("client") or ("",))[0], scope.get("query_string", b"")
        return key, self.callers.principal(scope), client, query, said

    async def _refuse(self, scope: Scope, request: Repeatable, send: Send) -> None:
        """The application says what it says to a session that it does not know. An id that it
        gave to somebody else meanwhile is not one that it knows from this client, and what it
        has left of a session that moved on or was deleted elsewhere is nobody's."""
        key = self.registry.key(asgi.place_of(scope), headers.get(scope["headers"], _ID) or "")
        if self.registry.is_inner(key) or await self.registry.is_known(key):
            scope["headers"] = headers.replaced(scope["headers"], _ID, made_up())
        await self.app(scope, request.receive, self._beginning(scope, request, send))


def _is_probe(scope: Scope) -> bool:
    return bool(scope.get("extensions", {}).get(asgi.EXTENSION, {}).get("probe"))
