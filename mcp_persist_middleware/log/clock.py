"""The one clock that all workers on a store go by: the store's own.

The wall clocks of two hosts differ, and one host's may be set an hour back or forth at any time. So
nothing that one worker writes and another reads is dated by either: each learns what the store says
the time is, and counts on from there by its own monotonic clock.
"""

import time


class StoreClock:
    """What the store says the time is, as this worker knows it. Until it has said anything, this
    process's own time at the beginning, counted on: a clock that is set meanwhile changes nothing.

    Read and set by the event loop and the heartbeat's thread; the one field is one assignment.
    """

    def __init__(self) -> None:
        self._ahead = time.time() - time.monotonic()

    def now(self) -> float:
        """Seconds since the Unix epoch."""
        return time.monotonic() + self._ahead

    @property
    def ahead(self) -> float:
        """How far the time is ahead of the monotonic clock."""
        return self._ahead

    def set(self, ahead: float) -> None:
        """Go by a time that is so far ahead of the monotonic clock."""
        self._ahead = ahead

    def learn(self, told: float, began: float) -> None:
        """The store has told its time in answer to a question that was asked at `began` on the
        monotonic clock. It is that of some moment between the two: what agrees with it stays."""
        least, most = told - time.monotonic(), told - began
        self._ahead = min(max(self._ahead, least), most)


_process = StoreClock()


class Timed:
    """Whatever has to say what the time is in the store."""

    def now(self) -> float:
        """Seconds since the Unix epoch by the clock that all workers on the store share; it may
        not jump. All times in records are of this clock, and what has expired has by this clock.

        As it stands it is this process's own: right where all workers are one process, or share a
        host whose clock nobody sets.
        """
        return _process.now()
