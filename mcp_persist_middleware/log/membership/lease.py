"""Whether this worker may run and write anything: its own view of its own life."""

import time
from collections.abc import Callable


class Lease:
    """Held from one heartbeat to the next, and lost once and for all.

    It is held while the last heartbeat that succeeded is younger than the lease; its age counts
    from before it was written, so that a worker knows of its end before anybody who observes it
    can. A process that was stopped (SIGSTOP, a frozen container) finds it expired when it wakes:
    others may have ended its streams and taken its sessions over.

    A worker whose *store* is away cannot beat either, and has to go on: its live streams are served
    without the log (`on_store_failure="degrade"`). So the lease is also held while the last
    heartbeat that failed is younger than the lease: the worker was awake then. That is safe. In an
    outage no observer gets on (see `FailureDetector`), so nobody is declared dead by it. And where
    only this worker is cut off from the store, others may end its streams, but it can write to none
    of them (each append is conditional on the stream's epoch), take no work from the store, and it
    runs nothing but what its own clients ask of it. Back at the store it finds that it was declared
    dead, and loses the lease then.

    Written by the heartbeat's thread, read by the event loop; each field is one assignment.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds = seconds
        self._clock = clock
        self._kept = clock()
        self._failed = self._kept
        self._lost = False

    @property
    def is_held(self) -> bool:
        """Whether anything may be run or written. What has run out stays lost."""
        if self._clock() - max(self._kept, self._failed) >= self.seconds:
            self._lost = True
        return not self._lost

    @property
    def is_young(self) -> bool:
        """Whether a heartbeat has succeeded within the lease."""
        return not self._lost and self._clock() - self._kept < self.seconds

    @property
    def age(self) -> float:
        """Seconds since the last heartbeat that succeeded."""
        return self._clock() - self._kept

    def keep(self, began: float) -> None:
        """A heartbeat that began at this time has succeeded."""
        self._kept = began

    def fail(self, began: float) -> None:
        """A heartbeat that began at this time has failed."""
        self._failed = began

    def lose(self) -> None:
        """It is over."""
        self._lost = True
