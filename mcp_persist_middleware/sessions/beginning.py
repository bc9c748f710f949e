"""The answer to an `initialize`: the session that it begins is committed before its head leaves."""

from starlette.types import Message, Scope, Send

from mcp_persist_middleware import asgi
from mcp_persist_middleware.asgi.body import Repeatable
from mcp_persist_middleware.protocol import headers, jsonrpc
from mcp_persist_middleware.sessions.initialize import MAX_GREETING, InitializeResult
from mcp_persist_middleware.sessions.local import LocalSession, Site
from mcp_persist_middleware.sessions.registry import Registry
from mcp_persist_middleware.sessions.revive import AsksCallers

_ID = headers.SESSION_ID


class Beginning:
    """Passes an answer on; when it gives a new session to the client, under that one's public id.

    Args:
        callers: tells them apart.
        site: runs requests of other workers for the session.
    """

    def __init__(
        self,
        registry: Registry,
        callers: AsksCallers,
        site: Site,
        scope: Scope,
        request: Repeatable,
        send: Send,
    ) -> None:
        self._registry = registry
        self._callers = callers
        self._site = site
        self._scope = scope
        self._request = request
        self._send = send
        self._held: LocalSession | None = None
        self._head: headers.RawHeaders = ()
        self._body = bytearray()

    async def __call__(self, message: Message) -> None:
        """Take what the application sends."""
        held = self._held
        if message["type"] == "http.response.start":
            self._head = message.get("headers", ())
            held = self._held = await self._begun(message)
            self._request.forget()
            if held is not None:
                public = headers.replaced(self._head, _ID, held.record.key.id)
                message = {**message, "headers": public}
        elif held is not None and not held.record.fingerprint and len(self._body) < MAX_GREETING:
            self._body.extend(message.get("body", b""))
            greeting = InitializeResult.parse(self._head, bytes(self._body))
            if greeting is not None:
                promised = {"fingerprint": greeting.fingerprint, "version": greeting.version}
                await self._registry.note(held, **promised)
        await self._send(message)

    async def _begun(self, message: Message) -> LocalSession | None:
        """The session that this head of an answer gives to a client, committed."""
        inner = headers.get(message.get("headers", ()), _ID)
        if inner is None or not 200 <= message["status"] < 300:
            return None
        body = self._request.body
        call = jsonrpc.parse(body)
        if call is None or not call.is_initialize:
            return None
        place, principal = asgi.place_of(self._scope), self._callers.principal(self._scope)
        owner, version = asgi.account_of(self._scope, principal), call.version or ""
        held = await self._registry.begin(place, inner, principal, version, body, owner)
        held.site = self._site
        await self._registry.latest.note(held.record.key, principal)
        return held
