"""The last seconds of a worker: clients that wait for nothing leave at once, calls may end, and
what has not ended by then is told so in the log."""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Protocol

from mcp_persist_middleware.wakeups.local import Signal

logger = logging.getLogger(__name__)

INTERRUPTED = "the server was shut down before the request had ended; it was not run again"
# A wake-up may be lost.
_LOOK_AGAIN = 0.25


class Reader(Protocol):
    """One connection of one client."""

    stream: bytes
    """What it reads."""
    epoch: int
    """The epoch of that when it began."""

    @property
    def is_idle(self) -> bool:
        """Whether no request that runs here is going to be answered on it."""

    def stop(self) -> None:
        """End the connection in order, soon."""


class Runner(Protocol):
    """One request that the application has."""

    @property
    def is_busy(self) -> bool:
        """Whether its answer is still to come."""

    def hold(self) -> None:
        """Its client's absence is no reason to end it any more."""

    def interrupt(self, why: str) -> None:
        """End it and answer with an error, if there is a stream to answer on."""


class Drain:
    """One deadline for everything that runs on an event loop.

    Args:
        seconds: how long calls may go on after `begin`.
        on_begin: lets the other workers know.
    """

    def __init__(self, seconds: float, on_begin: Callable[[], None] = lambda: None) -> None:
        self.readers: set[Reader] = set()
        self.runners: set[Runner] = set()
        self.changed = Signal()
        """Tells that a runner has ended."""
        self._seconds = seconds
        self._on_begin = on_begin
        self._deadline: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def began(self) -> bool:
        """Whether the worker is about to stop."""
        return self._deadline is not None

    @property
    def remaining(self) -> float:
        """Seconds until the deadline; all of them while nothing has begun."""
        if self._deadline is None:
            return self._seconds
        return max(0.0, self._deadline - time.monotonic())

    def begin(self) -> None:
        """The worker is about to stop; a second call does nothing."""
        if self._deadline is not None:
            return
        busy = sum(runner.is_busy for runner in self.runners)
        logger.info("Shutting down: %d calls have %g s to end", busy, self._seconds)
        self._deadline = time.monotonic() + self._seconds
        self._on_begin()
        self._timer = asyncio.get_running_loop().call_later(self._seconds, self._expire)
        for runner in list(self.runners):
            runner.hold()
        for reader in list(self.readers):
            if reader.is_idle:
                reader.stop()

    def hurry(self) -> None:
        """Nothing is waited for any longer: the deadline is now."""
        if self._deadline is not None and self.remaining:
            logger.info("Shutting down at once")
            self._deadline = time.monotonic()
            self.close()
            self._expire()
            self.changed.notify()

    def join(self, reader: Reader) -> None:
        """Take up a connection; one that comes after the beginning is not kept waiting."""
        self.readers.add(reader)
        if self.began and (reader.is_idle or not self.remaining):
            reader.stop()

    def send_back(self, stream: bytes, epoch: int) -> None:
        """The clients that began to read this stream in this epoch, or an earlier one, are asked
        to come back for it."""
        for reader in list(self.readers):
            if reader.stream == stream and reader.epoch <= epoch:
                reader.stop()

    async def finished(self) -> None:
        """Begin, and wait until no call runs any more or the deadline has passed."""
        self.begin()
        while self.remaining and any(runner.is_busy for runner in self.runners):
            await self.changed.wait(min(self.remaining, _LOOK_AGAIN))
        if any(runner.is_busy for runner in self.runners):
            self._expire()
        self.close()

    def close(self) -> None:
        """No clock runs any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expire(self) -> None:
        # First the connections: a client that is still here is asked to come back, and finds the
        # end of its call in the log, like every other.
        for reader in list(self.readers):
            reader.stop()
        for runner in list(self.runners):
            if runner.is_busy:
                runner.interrupt(INTERRUPTED)
