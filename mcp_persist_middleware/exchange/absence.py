"""The time in which nobody reads an exchange, and its end: the application hears that its client
has left."""

import asyncio
from collections.abc import Callable

from mcp_persist_middleware.exchange.context import Context, Running

# An application that was told that its client has left, and goes on, is cancelled after this.
_LAST_WORD_SECONDS = 30.0


class Absence:
    """One clock for one exchange: no reader, then the disconnect, then the cancellation."""

    def __init__(self, context: Context, exchange: Running, cancel: Callable[[], None]) -> None:
        self._context = context
        self._exchange = exchange
        self._cancel = cancel
        self._timer: asyncio.TimerHandle | None = None
        self._gone = asyncio.Event()

    @property
    def is_final(self) -> bool:
        """Whether the application has been told."""
        return self._gone.is_set()

    async def final(self) -> None:
        """Wait until the application has to be told."""
        await self._gone.wait()

    def begin(self, seconds: float) -> None:
        """Nobody reads; after `seconds`, or when too many others are alone, that is final."""
        if not self.is_final:
            self._set_timer(seconds, self.leave)
            oldest = self._context.set_detached(self._exchange, detached=True)
            if oldest is not None:
                oldest.leave()

    def over(self) -> None:
        """Somebody reads again."""
        self._context.set_detached(self._exchange, detached=False)
        if not self.is_final:
            self._stop_timer()

    def hold(self) -> None:
        """Stop the clock: how long nobody reads does not matter any more."""
        if not self.is_final:
            self._stop_timer()

    def leave(self) -> None:
        """The client has left for good."""
        if not self.is_final:
            self._gone.set()
            self._set_timer(_LAST_WORD_SECONDS, self._cancel)

    def close(self) -> None:
        """The exchange has ended: no clock runs any more."""
        self._context.set_detached(self._exchange, detached=False)
        self._stop_timer()

    def _set_timer(self, seconds: float, call: Callable[[], None]) -> None:
        self._stop_timer()
        self._timer = asyncio.get_running_loop().call_later(seconds, call)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
