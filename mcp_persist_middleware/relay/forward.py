"""A request is made ready for its way to the worker of its session, and put to it."""

import contextlib
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

from mcp_persist_middleware import asgi, rarely, telemetry
from mcp_persist_middleware.asgi import attempt
from mcp_persist_middleware.asgi import body as bodies
from mcp_persist_middleware.asgi.asked import Asked
from mcp_persist_middleware.asgi.client import Client
from mcp_persist_middleware.model import SessionRecord
from mcp_persist_middleware.protocol import headers
from mcp_persist_middleware.relay.client import RelayClient
from mcp_persist_middleware.relay.envelope import Reply, RequestEnvelope
from mcp_persist_middleware.relay.outcome import RelayFailure
from mcp_persist_middleware.settings import Settings

logger = rarely.logger(__name__)

_SEAL = (
    "A request with credentials is not relayed to the worker of its session, because they cannot "
    "be sealed there (install the extra 'relay' everywhere); the session is taken over instead, "
    "and answers to its questions are refused"
)
_SCOPE = (
    "Outer middleware set a user or state in a request that is relayed to another worker; they "
    "stay behind. Pass relay_scope=(dump, load) to carry them"
)


@dataclass(slots=True)
class Forward:
    """One request, as often as it is put to a worker. What it holds it gives back at the end."""

    relay: RelayClient
    settings: Settings
    asked: Asked
    client: Client
    common: AbstractSet[str]
    """What every request of this application finds in `scope["state"]`."""
    warned: set[str]
    """The warnings that were given."""
    _opened: contextlib.ExitStack | None = None

    async def may_travel(self, record: SessionRecord) -> bool:
        """Whether it may lie in the store until the session's worker fetches it.

        Raises:
            StoreError: the store does not answer.
        """
        if not self.asked.is_secret or await self.relay.can_seal(record.home):
            return True
        self._warn(_SEAL)
        return False

    async def put(self, record: SessionRecord) -> Reply | RelayFailure:
        """Put it to the home of its session, and wait for what becomes of it.

        Raises:
            StoreError: the store does not answer. Nothing was run.
        """
        if not self.asked.body.complete and (failure := await self._read_on(record)) is not None:
            return failure
        left = self.client.watch()
        attempt.spend()
        return await self.relay.carry(record, self._envelope(), left)

    def close(self) -> None:
        """It is answered."""
        if self._opened is not None:
            self._opened.close()

    async def _read_on(self, record: SessionRecord) -> RelayFailure | None:
        """Have all of a body that is larger than most, if it may be so large on its way."""
        asked, rooms, seconds = self.asked, self.relay.rooms, self.settings.send_timeout
        told = headers.get(asked.scope["headers"], b"content-length") or "0"
        if asked.body.is_broken_off:
            return RelayFailure.CLIENT_GONE
        if told.isdecimal() and int(told) > rooms.of_one:
            return RelayFailure.TOO_LARGE
        # It is not kept a second time meanwhile.
        attempt.spend()
        owner = asgi.account_of(asked.scope, record.principal)
        self._opened = self._opened or contextlib.ExitStack()
        room = self._opened.enter_context(rooms.of(owner))
        try:
            if not await bodies.read_on(asked.body, self.client.rest, room.take, seconds):
                is_too_large = asked.body.size > rooms.of_one
                return RelayFailure.TOO_LARGE if is_too_large else RelayFailure.QUEUE_FULL
        except TimeoutError:
            return RelayFailure.CLIENT_GONE
        return None if asked.body.complete else RelayFailure.CLIENT_GONE

    def _envelope(self) -> RequestEnvelope:
        scope, resume = self.asked.scope, self.asked.resume
        outer: Any = None
        if self.settings.relay_scope is not None:
            outer = self.settings.relay_scope[0](scope)
        elif "user" in scope or scope.get("state", {}).keys() - self.common:
            self._warn(_SCOPE)
        namespace = asgi.place_of(scope).namespace
        if trace := telemetry.traceparent():
            kept = headers.without(scope["headers"], *headers.TRACE)
            scope = {**scope, "headers": [*kept, (b"traceparent", trace.encode())]}
        cursor = None
        if resume is not None:
            cursor = headers.get(resume.scope["headers"], headers.LAST_EVENT_ID)
        return RequestEnvelope(scope, self.asked.body.content, namespace, outer, cursor or "")

    def _warn(self, text: str) -> None:
        if text not in self.warned:
            self.warned.add(text)
            logger.warning("MPM-RELAY-03: %s", text)
