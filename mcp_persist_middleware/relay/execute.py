"""One request that was claimed here is run, where its session is held."""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from functools import partial
from typing import Any, Protocol

from starlette.types import Receive

from mcp_persist_middleware import rarely
from mcp_persist_middleware.errors import LeaseLostError, SessionElsewhereError, StoreError
from mcp_persist_middleware.model import RelayRequest, SessionKey, SessionRecord
from mcp_persist_middleware.relay import sealing
from mcp_persist_middleware.relay.envelope import (
    BufferedResponse,
    NotExecuted,
    Reply,
    RequestEnvelope,
    away,
)

logger = rarely.logger(__name__)

# So long a cancellation is held for the calls before it to reach the application.
_HOLD_SECONDS = 0.5
_CANCELLED = b"notifications/cancelled"

Dispatch = Callable[[RequestEnvelope, Receive], Awaitable[Reply]]


class HeldSession(Protocol):
    """A session that is held here."""

    @property
    def record(self) -> SessionRecord:
        """What the store has of it."""

    @property
    def owner(self) -> str | None:
        """Whose sessions it is counted among."""

    @property
    def site(self) -> Dispatch | None:
        """Serves a request where the session's own requests are served."""


class LocalSessions(Protocol):
    """All of them."""

    def held(self, key: SessionKey, /) -> HeldSession | None:
        """The session, if it is held here."""

    async def arrived(self, key: SessionKey, /) -> HeldSession | None:
        """The same, once whoever brings it here just now has done so."""

    async def find(self, key: SessionKey, /) -> SessionRecord | None:
        """What the store knows of it, wherever it is held."""


class Executor:
    """Runs requests of other workers as if their clients were here."""

    def __init__(
        self, sessions: LocalSessions, seal: sealing.Seal | None, worker: str, seconds: float
    ) -> None:
        self._sessions = sessions
        self._seal = seal
        self._worker = worker
        self._seconds = seconds

    def session(self, request: RelayRequest) -> HeldSession | None:
        """The session of a request, if it may run in it."""
        return None if request.not_executable else self._sessions.held(request.key)

    async def run(
        self, request: RelayRequest, before: Collection[asyncio.Task[Any]], receive: Receive
    ) -> Reply:
        """What becomes of it.

        Args:
            before: what runs in the session already.
            receive: what the application hears behind the body.
        """
        if request.not_executable:
            return NotExecuted()
        held = self.session(request)
        if held is None or held.record.generation < request.generation:
            held = await self._arrived(request)
        if held is None:
            return NotExecuted(home_vacant=await self._is_vacant(request))
        if held.record.generation != request.generation or held.site is None:
            return NotExecuted()
        try:
            opened = partial(RequestEnvelope.open, request, self._seal)
            envelope = await away(len(request.content), opened)
        except sealing.UnreadableError:
            # It was addressed to the home before this one. Its sender has it, and seals it anew.
            return NotExecuted()
        if before and _CANCELLED in envelope.body:
            await asyncio.wait(before, timeout=_HOLD_SECONDS)
        limit = asyncio.timeout(self._seconds)
        try:
            async with limit:
                return await held.site(envelope, receive)
        except (SessionElsewhereError, LeaseLostError):
            return NotExecuted()
        except Exception as error:
            # The application may have met a time-out of its own.
            if isinstance(error, TimeoutError) and limit.expired():
                return BufferedResponse(504, [(b"content-length", b"0")], b"")
            logger.exception("MPM-APP-01: The application raised at a relayed request")
            body = b"Internal Server Error"
            return BufferedResponse(500, [(b"content-type", b"text/plain; charset=utf-8")], body)

    async def _arrived(self, request: RelayRequest) -> HeldSession | None:
        """The session, if it is on its way here, or is made anew: its requests follow it as soon
        as the store knows of its new home, which is before this worker holds it."""
        try:
            async with asyncio.timeout(self._seconds):
                return await self._sessions.arrived(request.key)
        except TimeoutError:
            return None

    async def _is_vacant(self, request: RelayRequest) -> bool:
        """Whether this worker is still the home of a session that it does not hold: it may have
        been once, when the request was addressed."""
        try:
            record = await self._sessions.find(request.key)
        except StoreError:
            return False
        home = (self._worker, request.generation)
        return record is not None and (record.home, record.generation) == home
