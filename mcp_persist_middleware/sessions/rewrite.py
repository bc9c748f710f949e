"""One request to a session that is held here, with every id as each side knows it."""

from starlette.types import ASGIApp, Message, Scope, Send

from mcp_persist_middleware import asgi, telemetry
from mcp_persist_middleware.asgi import responses
from mcp_persist_middleware.asgi.body import Repeatable
from mcp_persist_middleware.errors import SessionElsewhereError, StoreError
from mcp_persist_middleware.model import EventKind
from mcp_persist_middleware.protocol import headers, jsonrpc, request_ids, sse
from mcp_persist_middleware.sessions.change import Change
from mcp_persist_middleware.sessions.local import LocalSession
from mcp_persist_middleware.sessions.registry import Registry

_ID = headers.SESSION_ID
# What an application says of a session that it does not know is short; a longer refusal is about
# something else, and passes.
_MAX_REFUSAL = 64 * 1024
_MAX_SUBSCRIPTIONS = 1000
_STALE = "Not delivered: what this answers was asked before the session was brought back"


class RequestRewriter:
    """One run of the application for one request."""

    def __init__(
        self,
        app: ASGIApp,
        registry: Registry,
        held: LocalSession,
        scope: Scope,
        request: Repeatable,
        begins: Send,
    ) -> None:
        self._app = app
        self._registry = registry
        self._held = held
        self._scope = scope
        self._request = request
        self._begins = begins
        """Takes the answer instead when it gives another session to the client."""
        self._generation = held.record.generation
        self._public = held.record.key.id
        self._parser: sse.FrameParser | None = None
        self._refusal = asgi.Answer()
        self._change: Change | None = None
        self._begun: Message | None = None
        self._replaced = False
        self._is_stale = False
        """It answers what this session of the application never asked."""
        self._has_moved = False
        """It deleted what had another home by then, or was made anew."""

    async def run(self, send: Send) -> asgi.Answer | None:
        """Run it. The application's answer when it may not know the session (404 and 400 say many
        things): the client has had nothing then.

        Raises:
            SessionElsewhereError: a deletion has met what the session has left behind, and is
                asked for where it is now. Nothing was sent.
        """
        scope = self._scope
        self._held.count(scope["method"])
        named(scope, self._held)
        if self._generation > request_ids.FIRST and scope["method"] == "POST":
            await self._rewrite()

        async def answer(message: Message) -> None:
            changed = await self._outward(message, send)
            if changed is not None:
                if self._begun is not None:
                    await self._send_begun(send)
                await send(changed)

        await self._app(scope, self._request.receive, answer)
        if self._has_moved:
            raise SessionElsewhereError
        await self._send_begun(send)
        return self._refusal if self._refusal.messages else None

    async def _send_begun(self, send: Send) -> None:
        begun, self._begun = self._begun, None
        if begun is not None:
            await send(begun)

    async def _rewrite(self) -> None:
        """Put ids into the body as the application's session knows them. One that is too large
        for that passes as it is."""
        body = await self._request.whole()
        if body is None:
            return
        changed = self._inward(body)
        if changed != body:
            length = str(len(changed))
            self._scope["headers"] = headers.replaced(
                self._scope["headers"], b"content-length", length
            )
            self._request.replace(changed)

    def _inward(self, body: bytes) -> bytes:
        changed = request_ids.to_server(self._generation, body)
        if changed is None:
            # It speaks to a session that is gone; the application still judges the caller.
            telemetry.stale_replies.add(1)
            self._is_stale = True
            changed = asgi.cancellation()
        return changed

    async def _outward(self, message: Message, send: Send) -> Message | None:
        if self._replaced:
            await self._begins(message)
            return None
        if message["type"] == "http.response.start":
            return await self._head(message, send)
        if self._refusal.messages:
            return await self._hold_back(message, send)
        if self._change is not None:
            await self._learn(self._change, message.get("body", b""))
        if self._parser is None or message["type"] != "http.response.body":
            return message
        frames = self._parser.feed(message.get("body", b""))
        told = [*(self._frame(frame) for frame in frames), self._parser.comments()]
        return {**message, "body": b"".join(told)}

    async def _head(self, message: Message, send: Send) -> Message | None:
        status, raw = message["status"], message.get("headers", [])
        given, is_success = headers.get(raw, _ID), 200 <= status < 300
        if given == self._held.inner:
            message = {**message, "headers": headers.replaced(raw, _ID, self._public)}
        if status in (404, 400):
            self._refusal.messages.append(message)
            return None
        if is_success and given not in (None, self._held.inner):
            self._replaced = True
            await self._begins(message)
            return None
        if is_success and self._is_stale:
            await asgi.refuse(send, 409, _STALE)
            self._replaced, self._begins = True, _nowhere
            return None
        if is_success and self._scope["method"] == "DELETE":
            if not await self._ended(send):
                self._replaced, self._begins = True, _nowhere
                return None
        elif is_success:
            self._change = Change.of(self._request.body, raw)
        self._request.forget()
        if self._generation > request_ids.FIRST and headers.is_event_stream(status, raw):
            self._parser = sse.FrameParser(self._registry.max_event_bytes)
        if self._change is None or headers.is_event_stream(status, raw):
            return message
        # It leaves with what follows: who has it knows that the change is kept.
        self._begun = message
        return None

    async def _ended(self, send: Send) -> bool:
        try:
            await self._registry.end(self._held)
        except SessionElsewhereError:
            self._has_moved = True
        except StoreError:
            await responses.not_deleted_yet(send)
        else:
            return True
        return False

    async def _hold_back(self, message: Message, send: Send) -> Message | None:
        """A refusal waits until it is known what it means, or until it is too long for a word
        about a session."""
        if len(self._refusal.body) + len(message.get("body", b"")) <= _MAX_REFUSAL:
            self._refusal.messages.append(message)
            return None
        held_back, self._refusal = self._refusal, asgi.Answer()
        for before in held_back.messages:
            await send(before)
        return message

    def _frame(self, frame: sse.Frame) -> bytes:
        kind, _ = jsonrpc.scan(frame.data)
        is_cancel = kind is EventKind.MESSAGE and b"notifications/cancelled" in frame.data
        if kind is EventKind.REQUEST or is_cancel:
            return sse.event(request_ids.to_client(self._generation, frame.data)) + sse.CRLF
        return frame.raw + sse.CRLF

    async def _learn(self, change: Change, chunk: bytes) -> None:
        """Keep what revival has to repeat, before the client knows that it was agreed to."""
        if (agreed := change.is_agreed(chunk)) is None:
            return
        self._change = None
        changed = change.of_record(self._held.record) if agreed else {}
        if len(changed.get("subscriptions", ())) <= _MAX_SUBSCRIPTIONS:
            await self._registry.note(self._held, **changed)


def named(scope: Scope, held: LocalSession) -> None:
    """Have a request name a session as the application knows it."""
    scope["extensions"][asgi.EXTENSION] |= {
        "session": held.record.key.id,
        "generation": held.record.generation,
        "revived": held.is_revived,
    }
    scope["headers"] = headers.replaced(scope["headers"], _ID, held.inner)


async def _nowhere(_: Message) -> None:
    """The client has been answered otherwise."""
