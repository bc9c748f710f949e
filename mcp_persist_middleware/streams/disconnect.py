"""The time in which nobody reads an exchange, and its end: the application hears that its client
has left."""

import asyncio
import math
from collections.abc import Callable

from mcp_persist_middleware.streams.context import Context
from mcp_persist_middleware.streams.detached import Running

# An application that was told that its client has left, and goes on, is cancelled after this.
_LAST_WORD_SECONDS = 30.0
# A store that cannot say whether somebody reads elsewhere is asked this often, so many seconds
# apart; then what this worker knows decides.
_QUESTIONS, _ASK_AGAIN = 3, 1.0


class DisconnectTimer:
    """One clock for one exchange: no reader, then the disconnect, then the cancellation.

    Before an absence is final the store is asked for readers on other workers. While there is one
    the exchange is not alone; when it has left, the clock starts then.
    """

    def __init__(self, context: Context, exchange: Running, cancel: Callable[[], None]) -> None:
        self._context = context
        self._exchange: Running | None = exchange
        self._cancel = cancel
        self._grace = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._asking: asyncio.Task[None] | None = None
        self._gone = asyncio.Event()
        self._has_left = False

    @property
    def exchange(self) -> Running:
        """The exchange; asked only before it has ended."""
        assert self._exchange is not None
        return self._exchange

    @property
    def is_final(self) -> bool:
        """Whether the application has been told."""
        return self._gone.is_set()

    async def final(self) -> None:
        """Wait until the application has to be told."""
        await self._gone.wait()

    def start(self, seconds: float) -> None:
        """Nobody reads here; after `seconds` without a reader anywhere, that is final."""
        if not self._has_left and self._exchange is not None:
            self._grace = seconds
            self._set_timer(seconds, self._ask)
            self._context.detached.add(self)

    def cancel(self) -> None:
        """Somebody reads again. An application that was told meanwhile, and goes on, may."""
        self._context.detached.discard(self)
        if not self._has_left:
            self._stop()

    def pause(self) -> None:
        """Stop the clock: how long nobody reads does not matter any more."""
        if not self.is_final:
            self._stop()

    def fire(self) -> None:
        """The client has left for good."""
        if not self._has_left:
            self._has_left = True
            self.expire()

    def expire(self) -> None:
        """Nobody reads, and that is final unless somebody comes while the application ends."""
        self._gone.set()
        self._context.detached.discard(self)
        self._set_timer(_LAST_WORD_SECONDS, self._cancel)

    def read_elsewhere(self, seconds: float) -> None:
        """That long somebody reads elsewhere: then the clock starts."""
        self._context.detached.discard(self)
        self._set_timer(seconds + self._grace, self._ask)

    def close(self) -> None:
        """The exchange has ended: no clock runs any more. It is let go, for the two hold each
        other, and a circle of what each call leaves is dear to collect."""
        self._context.detached.discard(self)
        self._stop()
        self._exchange, self._cancel = None, _nothing

    def _ask(self) -> None:
        self._stop()
        self._asking = self._context.background.spawn(self._settle(), "mcp-persist-disconnect")

    async def _settle(self) -> None:
        """Final, unless a reader elsewhere was there less than the grace ago."""
        reader_ttl = await self.reader_ttl()
        # This task is about to be over; what follows must not cancel it.
        self._asking = None
        if reader_ttl > 0:
            self.read_elsewhere(reader_ttl)
        elif reader_ttl + self._grace > 0:
            self._set_timer(reader_ttl + self._grace, self._ask)
            self._context.detached.add(self)
        else:
            self.expire()

    async def reader_ttl(self) -> float:
        """For how long somebody is known to read elsewhere; negative when nobody is."""
        stream = self._exchange.stream if self._exchange is not None else None
        if stream is None or stream.degraded:
            return -math.inf
        for _ in range(_QUESTIONS):
            try:
                reader_ttl = await self._context.log.reader_ttl(stream.record.id)
            except Exception:  # noqa: BLE001
                # A store of somebody else's may fail in any way: the clock goes on.
                await asyncio.sleep(_ASK_AGAIN)
            else:
                return reader_ttl if reader_ttl is not None else -math.inf
        return -math.inf

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


def _nothing() -> None:
    """What there is to cancel when all is over."""
