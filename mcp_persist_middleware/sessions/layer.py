"""The application with sessions that last: a public id stands for whichever session of the
application is behind it just now."""

import json
import logging
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mcp_persist_middleware import asgi
from mcp_persist_middleware.errors import SessionElsewhereError, StoreError
from mcp_persist_middleware.model import SessionKey
from mcp_persist_middleware.protocol import headers, jsonrpc
from mcp_persist_middleware.sessions.greeting import Greeting
from mcp_persist_middleware.sessions.registry import Held, Registry, Site
from mcp_persist_middleware.sessions.revive import PrincipalOf, revive
from mcp_persist_middleware.sessions.turn import Repeatable, Turn

logger = logging.getLogger(__name__)

_ID = headers.SESSION_ID
_MAX_GREETING = 1024 * 1024


@dataclass(frozen=True, slots=True)
class SessionLayer:
    """An ASGI application around the application, for requests of eras that have sessions.

    Routing decides by what this worker knows: a session that is held here is served; one that
    only the store knows is brought back first; any other is the application's to refuse.

    Raises:
        SessionElsewhereError: another worker is the session's home. Nothing was run or sent.
    """

    app: ASGIApp
    registry: Registry
    principal: PrincipalOf
    """Names the caller of a request that the application has had."""
    site: Site
    """Runs requests of other workers for the sessions that begin or come back here."""
    revived: Callable[[SessionKey, Scope], Awaitable[None]]
    """Called when a request has brought its session back, before it is served itself."""
    takes_over: bool = False
    """Whether a session comes here even from a home that lives."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        public = headers.get(scope["headers"], _ID)
        if public is not None:
            key = self.registry.key(asgi.place_of(scope), public)
            await self._go_on(key, scope, Repeatable(receive, self.registry.max_body_bytes), send)
        elif scope["method"] == "POST":
            await self._begin(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    # A new session.

    async def _begin(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Repeatable(receive, self.registry.max_body_bytes)
        held: Held | None = None
        head: headers.RawHeaders = ()
        body = bytearray()

        async def answer(message: Message) -> None:
            nonlocal held, head
            if message["type"] == "http.response.start":
                head = message.get("headers", ())
                held = await self._begun(scope, request.body, message)
                request.forget()
                if held is not None:
                    public = held.record.key.id
                    message = {**message, "headers": headers.replaced(head, _ID, public)}
            elif held is not None and not held.record.fingerprint and len(body) < _MAX_GREETING:
                body.extend(message.get("body", b""))
                greeting = Greeting.parse(head, bytes(body))
                if greeting is not None:
                    promised = {"fingerprint": greeting.fingerprint, "version": greeting.version}
                    await self.registry.note(held, **promised)
            await send(message)

        await self.app(scope, request.receive, answer)

    async def _begun(self, scope: Scope, body: bytes, message: Message) -> Held | None:
        """The session that this head of an answer gives to a client, committed."""
        inner = headers.get(message.get("headers", ()), _ID)
        if inner is None or not 200 <= message["status"] < 300:
            return None
        call = jsonrpc.parse(body)
        if call is None or not call.is_initialize:
            return None
        place, principal = asgi.place_of(scope), self.principal(scope)
        owner = principal or _address(scope)
        held = await self.registry.begin(place, inner, principal, call.version or "", body, owner)
        held.site = self.site
        return held

    # A session that has begun before.

    async def _go_on(self, key: SessionKey, scope: Scope, request: Repeatable, send: Send) -> None:
        held = self.registry.held(key)
        if held is None:
            held = await self._bring_back(key, scope, request, send)
        if held is None:
            return
        unknown = await Turn(self.app, self.registry, held, scope, request).run(send)
        if unknown is None:
            return
        if unknown.status == 400 and not await self._is_forgotten(held, scope):
            await unknown.pass_on(send)
            return
        # The application has forgotten a session that nobody ended: it was idle for too long.
        self.registry.drop(held)
        if request.can_repeat and not _is_probe(scope):
            held = await self._bring_back(key, scope, request, send, otherwise=unknown)
            if held is None:
                return
            unknown = await Turn(self.app, self.registry, held, scope, request.again()).run(send)
        if unknown is not None:
            await unknown.pass_on(send)

    async def _is_forgotten(self, held: Held, scope: Scope) -> bool:
        """Whether 400 means that the application does not know the session: then it says so to a
        notification as well that nobody can find fault with, and took such ones before."""
        if _is_probe(scope):
            return False
        asked = asgi.question(scope, "POST", without=(_ID, headers.PROTOCOL_VERSION))
        asked["headers"] += [
            (_ID, held.inner.encode("latin-1")),
            (headers.PROTOCOL_VERSION, held.record.version.encode("latin-1")),
        ]
        nothing = {"requestId": f"probe-{secrets.token_hex(8)}"}
        message = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": nothing}
        answer = await asgi.ask(self.app, asked, json.dumps(message).encode())
        return answer.status in (400, 404)

    async def _bring_back(
        self,
        key: SessionKey,
        scope: Scope,
        request: Repeatable,
        send: Send,
        otherwise: asgi.Answer | None = None,
    ) -> Held | None:
        """The session, held here from now on. Without one the client has been answered: with
        what the application says to a session that it does not know, or to this caller."""
        async with self.registry.lock(key):
            # Of many requests that come together the first one does it.
            held = self.registry.held(key)
            if held is not None:
                return held
            try:
                found = await self._revived(key, scope)
            except StoreError as error:
                logger.warning("A session cannot be looked up: %s", error)
                await _unavailable(scope, request.receive, send)
                return None
        match found:
            case Held():
                # It has had `notifications/initialized`.
                found.site, found.accepts = self.site, True
                if scope["method"] != "GET":
                    await self.revived(key, scope)
                return found
            case asgi.Answer():
                await found.pass_on(send)
            case _ if otherwise is not None:
                await otherwise.pass_on(send)
            case _:
                await self._refuse(scope, request, send)
        return None

    async def _revived(self, key: SessionKey, scope: Scope) -> Held | asgi.Answer | None:
        if _is_probe(scope) or self.registry.is_local:
            return None
        record = await self.registry.find(key)
        if record is None:
            return None
        if not (self.takes_over or await self.registry.is_free(record)):
            raise SessionElsewhereError
        if not self.registry.may_revive(scope):
            return None
        found = await revive(self.registry, self.app, scope, record, self.principal)
        if found is None:
            now = await self.registry.find(key)
            if now is not None and now.generation != record.generation:
                # Another worker was faster.
                raise SessionElsewhereError
        return found

    async def _refuse(self, scope: Scope, request: Repeatable, send: Send) -> None:
        """The application says what it says to a session that it does not know. An id that it
        gave to somebody else meanwhile is not one that it knows from this client, and what it
        has left of a session that moved on or was deleted elsewhere is nobody's."""
        key = self.registry.key(asgi.place_of(scope), headers.get(scope["headers"], _ID) or "")
        if self.registry.is_inner(key) or await self.registry.is_known(key):
            scope["headers"] = headers.replaced(scope["headers"], _ID, secrets.token_hex(16))
        await self.app(scope, request.receive, send)


def _address(scope: Scope) -> str:
    """Where a request comes from."""
    client = scope.get("client")
    return f"@{client[0]}" if client else "@"


def _is_probe(scope: Scope) -> bool:
    return bool(scope.get("extensions", {}).get(asgi.EXTENSION, {}).get("probe"))


async def _unavailable(scope: Scope, receive: Receive, send: Send) -> None:
    error = {"code": -32000, "message": "The session store is unavailable"}
    body = {"jsonrpc": "2.0", "id": None, "error": error}
    await JSONResponse(body, 503, headers={"Retry-After": "5"})(scope, receive, send)
