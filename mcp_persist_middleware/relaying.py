"""Where sessions meet exchanges: a request of a session is served here, or where the session is."""

import asyncio
import contextlib
import logging
import time
from dataclasses import dataclass, field
from typing import Any, Protocol

from starlette.types import Receive, Scope, Send

from mcp_persist_middleware import asgi, telemetry
from mcp_persist_middleware.asgi import attempt, place_of, responses
from mcp_persist_middleware.asgi import body as bodies
from mcp_persist_middleware.asgi.body import Body
from mcp_persist_middleware.asgi.client import Client
from mcp_persist_middleware.errors import SessionElsewhereError, StoreError
from mcp_persist_middleware.model import SessionRecord
from mcp_persist_middleware.protocol import callers, classify, headers, jsonrpc
from mcp_persist_middleware.protocol.classify import Kind
from mcp_persist_middleware.relay import sealing
from mcp_persist_middleware.relay.envelope import (
    BufferedResponse,
    NotExecuted,
    Reply,
    RequestEnvelope,
    StreamResponse,
)
from mcp_persist_middleware.relay.outcome import RelayFailure
from mcp_persist_middleware.streams import remote, resume
from mcp_persist_middleware.worker import Parts

logger = logging.getLogger(__name__)

# A session that moves more often than this while one request looks for it is not found by it.
_MOVES = 4
_ASK_AGAIN = 0.1
_LOST = (
    "Interrupted: the worker that ran this request is gone or cannot answer; it was not run again"
)
_UNSEALED = (
    "Not delivered: the call that this belongs to runs on another worker, and the credentials of "
    "this request cannot be sealed for it; install the extra 'relay' on every worker"
)


class Serve(Protocol):
    """Serves a request here, as often as it is called."""

    async def __call__(self, rest: Receive, *, takes_over: bool) -> None:
        """Serve it. `rest` goes on behind the body; `takes_over` moves the session here even
        from a home that lives."""


@dataclass(slots=True)
class Request:
    """One request of a session."""

    parts: Parts
    request: classify.Request
    scope: Scope
    body: Body
    receive: Receive
    send: Send
    state: dict[str, Any]
    """What every request of this application finds in `scope["state"]`."""
    again: str = ""
    """The cursor of the client that came back for this request, if it is run again."""
    _client: Client | None = field(default=None)
    _opened: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    async def run(self, serve: Serve) -> None:
        """Serve it where its session is."""
        takes_over = False
        try:
            for moves in range(_MOVES):
                outcome = None if takes_over else await self._try_relay(moved=moves > 0)
                match outcome:
                    case None | NotExecuted(home_vacant=True):
                        takes_over = outcome is not None
                    case NotExecuted():
                        continue
                    case _:
                        await self._deliver(outcome)
                        return
                try:
                    await serve(self._rest, takes_over=takes_over)
                except SessionElsewhereError:
                    takes_over = False
                else:
                    return
            await self._refuse("the session is moving between workers")
        finally:
            self._opened.close()
            if self._client is not None:
                self._client.close()

    @property
    def _rest(self) -> Receive:
        """What there is to hear behind the body: some servers tell of a disconnect only once."""
        return self.receive if self._client is None else self._client.receive

    async def _try_relay(self, *, moved: bool) -> Reply | RelayFailure | None:
        """What has become of it on another worker; None when it is to be served here. Where the
        store fails nothing has been posted, so one that stumbles is asked again; one that is known
        to be away is not.
        """
        context = self.parts.exchanges
        until = time.monotonic() + context.settings.store_timeout
        while True:
            try:
                return await self._relayed(moved=moved)
            except StoreError as error:
                if context.writer.is_down or time.monotonic() + _ASK_AGAIN >= until:
                    logger.warning("The worker of a session cannot be found or reached: %s", error)
                    return RelayFailure.TIMEOUT
            await asyncio.sleep(_ASK_AGAIN)

    async def _relayed(self, *, moved: bool) -> Reply | RelayFailure | None:
        record = await self._elsewhere(moved=moved)
        if record is None:
            return None
        if await self._may_cross(record):
            return await self._relay(record)
        # To a session that was taken over it would say nothing.
        is_lost = self.body.complete and jsonrpc.is_to_a_call(self.body.content)
        return RelayFailure.UNSEALED if is_lost else NotExecuted(home_vacant=True)

    async def _elsewhere(self, *, moved: bool) -> SessionRecord | None:
        """The session, if it is to be looked for on another worker."""
        registry, request = self.parts.sessions, self.request
        if not (request.session and request.era.sessions) or registry.is_local:
            return None
        key = registry.key(place_of(self.scope), request.session)
        held = registry.held(key)
        if held is not None and self._is_contested():
            held = await registry.check(held)
        if held is not None:
            return None
        record = await registry.seen(key, anew=moved)
        asks = request.kind in (Kind.EXCHANGE, Kind.STREAM)
        if record is None or await registry.is_free(record, asks=asks):
            return None
        return record

    def _is_contested(self) -> bool:
        """Whether other workers take this session over from a home that lives."""
        if self.parts.exchanges.settings.session_routing == "revive":
            return True
        return not sealing.is_available() and self._is_secret

    @property
    def _is_secret(self) -> bool:
        """Whether it carries what may lie in the store only if it is sealed."""
        scope = self.scope
        return bool(callers.secrets(scope["headers"]) or scope.get("query_string"))

    # On its way to another worker.

    async def _may_cross(self, record: SessionRecord) -> bool:
        """Whether this request may lie in the store until it is fetched."""
        if not self._is_secret:
            return True
        if await self.parts.relay.can_seal(record.home):
            return True
        self._say(
            "seal",
            "A request with credentials is not relayed to the worker of its session, because they "
            "cannot be sealed there (install the extra 'relay' everywhere); the session is "
            "taken over instead, and answers to its questions are refused",
        )
        return False

    async def _relay(self, record: SessionRecord) -> Reply | RelayFailure:
        if not self.body.complete and (refusal := await self._read_on(record)) is not None:
            return refusal
        if self._client is None:
            self._client = Client(self.receive)
        client = self._client
        attempt.spend()
        return await self.parts.relay.carry(record, self._envelope(), client.watch())

    async def _read_on(self, record: SessionRecord) -> RelayFailure | None:
        """Have all of a body that is larger than most, if it may be so large on its way."""
        rooms, seconds = self.parts.relay.rooms, self.parts.exchanges.settings.send_timeout
        told = headers.get(self.scope["headers"], b"content-length") or "0"
        if self.body.is_broken_off:
            return RelayFailure.CLIENT_GONE
        if told.isdecimal() and int(told) > rooms.of_one:
            return RelayFailure.TOO_LARGE
        # It is not kept a second time meanwhile.
        attempt.spend()
        owner = asgi.account_of(self.scope, record.principal)
        room = self._opened.enter_context(rooms.of(owner))
        try:
            if not await bodies.read_on(self.body, self.receive, room.take, seconds):
                return (
                    RelayFailure.TOO_LARGE
                    if self.body.size > rooms.of_one
                    else RelayFailure.QUEUE_FULL
                )
        except TimeoutError:
            return RelayFailure.CLIENT_GONE
        return None if self.body.complete else RelayFailure.CLIENT_GONE

    def _envelope(self) -> RequestEnvelope:
        scope, context = self.scope, self.parts.exchanges
        if trace := telemetry.traceparent():
            kept = headers.without(scope["headers"], *headers.TRACE)
            scope = {**scope, "headers": [*kept, (b"traceparent", trace.encode())]}
        outer = None
        if context.settings.relay_scope is not None:
            outer = context.settings.relay_scope[0](self.scope)
        elif "user" in scope or scope.get("state", {}).keys() - self.state.keys():
            self._say(
                "scope",
                "Outer middleware set a user or state in a request that is relayed to another "
                "worker; they stay behind. Pass relay_scope=(dump, load) to carry them",
            )
        namespace = place_of(self.scope).namespace
        return RequestEnvelope(scope, self.body.content, namespace, outer, self.again)

    def _say(self, name: str, text: str) -> None:
        warned = self.parts.exchanges.warned
        if name not in warned:
            warned.add(name)
            logger.warning(text)

    # Back from there.

    async def _deliver(self, outcome: Reply | RelayFailure) -> None:
        match outcome:
            case StreamResponse():
                found = remote.Remote(
                    outcome.stream,
                    outcome.kind,
                    outcome.request_id,
                    outcome.head,
                    outcome.after,
                    outcome.joined,
                    outcome.suppress_requests_through,
                    outcome.events,
                )
                assert self._client is not None
                era, context = self.request.era, self.parts.exchanges
                receive = self._client.receive
                await remote.deliver(context, found, era, self.scope, receive, self.send)
            case BufferedResponse():
                head = {"status": outcome.status, "headers": list(outcome.head)}
                await self.send({"type": "http.response.start", **head})
                await self.send({"type": "http.response.body", "body": outcome.body})
            case RelayFailure.CLIENT_GONE:
                return
            case RelayFailure.UNKNOWN_OUTCOME if self.request.kind is Kind.EXCHANGE:
                call = self.request.call
                await responses.end_calls(self.send, call.request_ids if call else (), _LOST)
            case RelayFailure.UNKNOWN_OUTCOME:
                text = "the worker of this session is gone or cannot answer"
                await self._refuse(text, run="Perhaps not run")
            case RelayFailure.UNSEALED:
                await asgi.refuse(self.send, 409, _UNSEALED)
            case RelayFailure.TOO_LARGE:
                await asgi.refuse(self.send, 413, self._too_large)
            case RelayFailure.QUEUE_FULL:
                await self._refuse("too much waits for the worker of this session, or runs there")
            case _:
                await self._refuse("the worker of this session cannot be reached")

    @property
    def _too_large(self) -> str:
        most = self.parts.relay.rooms.of_one
        return (
            f"Not run: this session is on another worker, and no more than {most} bytes travel "
            "there (max_event_bytes, max_body_bytes)"
        )

    async def _refuse(self, text: str, run: str = "Not run") -> None:
        if self.again:
            # It waits in the log; an HTTP error would make its client give up.
            await resume.later(self.parts.exchanges, self.send, text)
        else:
            await asgi.unavailable(self.send, f"{run}: {text}", retry_after=1)
