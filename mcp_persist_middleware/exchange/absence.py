"""The time in which nobody reads an exchange, and its end: the application hears that its client
has left."""

import asyncio
import math
from collections.abc import Callable

from mcp_persist_middleware.exchange.context import Context, Running

# An application that was told that its client has left, and goes on, is cancelled after this.
_LAST_WORD_SECONDS = 30.0
# A store that cannot say whether somebody reads elsewhere is asked this often, so many seconds
# apart; then what this worker knows decides.
_QUESTIONS, _ASK_AGAIN = 3, 1.0


class Absence:
    """One clock for one exchange: no reader, then the disconnect, then the cancellation.

    Before an absence is final the store is asked for readers on other workers. While there is one
    the exchange is not alone; when it has left, the clock starts then.
    """

    def __init__(self, context: Context, exchange: Running, cancel: Callable[[], None]) -> None:
        self._context = context
        self._exchange = exchange
        self._cancel = cancel
        self._grace = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._asking: asyncio.Task[None] | None = None
        self._gone = asyncio.Event()

    @property
    def is_final(self) -> bool:
        """Whether the application has been told."""
        return self._gone.is_set()

    async def final(self) -> None:
        """Wait until the application has to be told."""
        await self._gone.wait()

    def begin(self, seconds: float) -> None:
        """Nobody reads here; after `seconds` without a reader anywhere, that is final."""
        if not self.is_final:
            self._grace = seconds
            self._set_timer(seconds, self._ask)
            self._set_detached()

    def crowd_out(self) -> None:
        """Too many others are alone: it is final now, unless somebody reads elsewhere."""
        if not self.is_final:
            self._ask(0.0)

    def over(self) -> None:
        """Somebody reads again."""
        self._context.set_detached(self._exchange, detached=False)
        if not self.is_final:
            self._stop()

    def hold(self) -> None:
        """Stop the clock: how long nobody reads does not matter any more."""
        if not self.is_final:
            self._stop()

    def leave(self) -> None:
        """The client has left for good."""
        if not self.is_final:
            self._gone.set()
            self._set_timer(_LAST_WORD_SECONDS, self._cancel)

    def close(self) -> None:
        """The exchange has ended: no clock runs any more."""
        self._context.set_detached(self._exchange, detached=False)
        self._stop()

    def _ask(self, grace: float | None = None) -> None:
        self._stop()
        settling = self._settle(self._grace if grace is None else grace)
        self._asking = self._context.background.spawn(settling, "mcp-persist-absence")

    async def _settle(self, grace: float) -> None:
        """Final, unless a reader elsewhere was there less than `grace` seconds ago."""
        attended = await self._attended()
        # This task is about to be over; what follows must not cancel it.
        self._asking = None
        if attended + grace <= 0:
            self.leave()
            return
        self._set_timer(attended + self._grace, self._ask)
        if attended > 0:
            self._context.set_detached(self._exchange, detached=False)
        else:
            self._set_detached()

    async def _attended(self) -> float:
        """For how long somebody is known to read elsewhere; negative when nobody is."""
        stream = self._exchange.stream
        if stream is None or stream.degraded:
            return -math.inf
        for _ in range(_QUESTIONS):
            try:
                attended = await self._context.log.attended(stream.record.id)
            except Exception:  # noqa: BLE001
                # A store of somebody else's may fail in any way: the clock goes on.
                await asyncio.sleep(_ASK_AGAIN)
            else:
                return attended if attended is not None else -math.inf
        return -math.inf

    def _set_detached(self) -> None:
        oldest = self._context.set_detached(self._exchange, detached=True)
        if oldest is not None:
            oldest.crowd_out()

    def _set_timer(self, seconds: float, call: Callable[[], None]) -> None:
        self._stop()
        self._timer = asyncio.get_running_loop().call_later(seconds, call)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._asking is not None:
            self._asking.cancel()
            self._asking = None
