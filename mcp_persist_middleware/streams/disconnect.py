"""When an application hears that its client has left."""

import asyncio
from collections.abc import Callable

from mcp_persist_middleware.streams.context import Context
from mcp_persist_middleware.streams.detached import Running
from mcp_persist_middleware.streams.exchange_report import ExchangeReport
from mcp_persist_middleware.wakeups.local import Signal

# An application that was told that its client has left, and goes on, is cancelled after this.
_LAST_WORD_SECONDS = 30.0


class DisconnectTimer:
    """The timer of one exchange. Events tell it who reads: readers here come (`attached`) and go
    (`detached`), and of readers elsewhere the last lease ends (`reader_lease`). When nobody has
    read for the grace, the application is told, and after a last word cancelled.

    Args:
        cancels: whether a client that leaves has cancelled its request.
    """

    def __init__(
        self,
        context: Context,
        exchange: Running,
        report: ExchangeReport,
        cancel: Callable[[], None],
        *,
        cancels: bool,
    ) -> None:
        self._context = context
        self._cancels = cancels
        self._outlives = False
        self._exchange: Running | None = exchange
        self._report = report
        self._cancel = cancel
        self._grace = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._asking: asyncio.Task[None] | None = None
        self.is_final = False
        """Whether the application has been told."""
        self._told = Signal()
        self._has_left = False

    @property
    def exchange(self) -> Running:
        """The exchange; asked only before it has ended."""
        assert self._exchange is not None
        return self._exchange

    async def final(self) -> None:
        """Wait until the application has to be told, as it is when its answer is complete."""
        while not self.is_final and self._exchange is not None:
            await self._told.wait()

    # What it is told.

    def readers_changed(self) -> None:
        """Somebody has come to read here, or has left."""
        stream = self._exchange.stream if self._exchange is not None else None
        if stream is not None:
            self._report.read(stream.readers)
        if stream is None or stream.readers:
            self.attached()
        else:
            cancels = self._cancels and not self._context.draining
            settings = self._context.settings
            self.detached(settings.disconnect_grace if cancels else settings.detach_seconds)

    def outlive(self, seconds: float) -> None:
        """Who reads does not matter any more; only after so many seconds the application is told
        that its client has left."""
        self._outlives = True
        self._context.detached.discard(self)
        if self._exchange is not None:
            self._set_timer(seconds, self.fire)

    def attached(self) -> None:
        """Somebody reads here. An application that was told meanwhile, and goes on, may."""
        self._context.detached.discard(self)
        if not (self._has_left or self._outlives):
            self._stop()

    def detached(self, grace: float) -> None:
        """Nobody reads here; after so many seconds without a reader anywhere, that is final."""
        if not (self._has_left or self._outlives) and self._exchange is not None:
            self._grace = grace
            self._set_timer(grace, self._ask)
            self._context.detached.add(self)

    def reader_lease(self, left: float) -> None:
        """Elsewhere somebody reads for so many seconds at least; negative: until so long ago."""
        if self._outlives or self._exchange is None:
            return
        if left > 0:
            self._context.detached.discard(self)
        elif left + self._grace > 0:
            self._context.detached.add(self)
        else:
            self.expire()
            return
        self._set_timer(left + self._grace, self._ask)

    def pause(self) -> None:
        """How long nobody reads does not matter any more."""
        if not self.is_final:
            self._stop()

    def fire(self) -> None:
        """The client has left for good."""
        if not self._has_left and self._exchange is not None:
            self._has_left = True
            self.expire()

    def expire(self) -> None:
        """Nobody reads, and that is final unless somebody comes while the application ends."""
        self.is_final = True
        self._told.notify()
        self._context.detached.discard(self)
        self._set_timer(_LAST_WORD_SECONDS, self._cancel)

    def close(self) -> None:
        """The answer is complete, or the exchange has ended: no timer runs any more, and what the
        application does behind its answer is its own affair. The exchange is let go, for the two
        hold each other, and a circle of what each call leaves is dear to collect."""
        self._context.detached.discard(self)
        self._stop()
        self._exchange, self._cancel = None, _nothing
        self._told.notify()

    async def reader_ttl(self) -> float:
        """The lease of a reader elsewhere, as `reader_lease` is told it."""
        stream = self._exchange.stream if self._exchange is not None else None
        return await self._context.member.reader_leases.lease(stream)

    def _ask(self) -> None:
        self._stop()
        self._asking = self._context.background.spawn(self._learn(), "mcp-persist-disconnect")

    async def _learn(self) -> None:
        left = await self.reader_ttl()
        # This task is about to be over; what follows must not cancel it.
        self._asking = None
        self.reader_lease(left)

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
