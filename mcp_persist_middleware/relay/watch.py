"""How long a sender has waited for what, on its own clock."""

import asyncio
import math
import time

from mcp_persist_middleware import asgi
from mcp_persist_middleware.model import Certainty, RelayStatus
from mcp_persist_middleware.relay.outcome import RelayFailure
from mcp_persist_middleware.supervision import begin_task
from mcp_persist_middleware.wakeups.base import Subscription

_LOOK_SECONDS = 1.0
_NAME = "mcp-persist-reply"
# So long a request is waited for of which it cannot be known whether it was claimed.
_DOUBT_SECONDS = 5.0


class Watch:
    """What a sender waits for: a wake-up, its client's leaving, or a second; and since when what it
    has seen is so."""

    def __init__(self, topic: Subscription, left: asyncio.Future[None]) -> None:
        self._topic = topic
        self._woken = begin_task(topic.wait(), _NAME)
        self._left = left
        self._left_at = math.inf
        self._sure_at = self._now = time.monotonic()
        self._due = self._now + _LOOK_SECONDS
        self.failed_at = math.inf
        """Since when the store has not answered."""

    async def next(self) -> None:
        """Wait for the next of them."""
        waiting = {self._woken} if self._left.done() else {self._woken, self._left}
        await asyncio.wait(waiting, timeout=_LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        if self._woken.done():
            self._woken = begin_task(self._topic.wait(), _NAME)

    def note(self, status: RelayStatus | None) -> None:
        """This was seen now."""
        self._now = time.monotonic()
        if status is None or status.certainty is not Certainty.UNKNOWN:
            self._sure_at = self._now
        if self._left.done():
            self._left_at = min(self._left_at, self._now)

    @property
    def has_left(self) -> bool:
        """Whether the client has, and reads no more."""
        return self._now - self._left_at >= asgi.HALF_CLOSED

    @property
    def is_suspect(self) -> bool:
        """Whether the store has not known for long whether the request was claimed."""
        return self._now - self._sure_at > _DOUBT_SECONDS

    @property
    def is_due(self) -> bool:
        """Whether it is time to judge, which may cost a question to the store."""
        if not (self.has_left or self.is_suspect or self._now >= self._due):
            return False
        self._due = self._now + _LOOK_SECONDS
        return True

    @property
    def given_up(self) -> RelayFailure:
        """It may have been run, and nobody waits any longer."""
        return RelayFailure.CLIENT_GONE if self._left.done() else RelayFailure.UNKNOWN_OUTCOME

    def has_failed_for(self, seconds: float) -> bool:
        """Whether the store has not answered for so long, now that it has not again."""
        self.failed_at = min(self.failed_at, time.monotonic())
        return time.monotonic() - self.failed_at > seconds

    def close(self) -> None:
        """Wait no more."""
        self._woken.cancel()
