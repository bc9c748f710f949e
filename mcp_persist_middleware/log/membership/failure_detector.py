"""Who has died, as one observer can tell: by its own clock, from counters that move or do not."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mcp_persist_middleware.model import Beat, WorkerState


@dataclass(slots=True)
class _Observed:
    counter: int
    since: float
    """When this counter had been read for the first time."""
    until: float
    """When the last look at it began."""


class FailureDetector:
    """Watches the counters of all workers.

    A worker is dead when its counter has stood still for a whole lease in which this observer
    could reach the store throughout. The observer's own heartbeat is the proof of that: where
    that fails (the store is away, or takes no writes), `restart` begins every observation anew,
    because the others cannot write either. So does a look that comes so late that the observer
    itself must have stood still. Therefore an outage of the store kills nobody, at the price that
    a death within it is noticed a lease after its end.
    """

    def __init__(self, lease: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._lease = lease
        self._clock = clock
        self._looked = clock()
        self._watched: dict[str, _Observed] = {}
        self.beats: Mapping[str, Beat] = {}
        """All workers at the last look."""

    def restart(self) -> None:
        """The store could not be reached: what was observed so far says nothing."""
        self._watched = {}

    def look(self, began: float, beats: Mapping[str, Beat]) -> None:
        """Take note of a look at the store that began at a time of this observer's clock."""
        now = self._clock()
        if now - self._looked > self._lease / 2:
            self.restart()
        self._looked = now
        before, self._watched = self._watched, {}
        for worker, beat in beats.items():
            watch = before.get(worker)
            if watch is None or watch.counter != beat.counter:
                watch = _Observed(beat.counter, now, began)
            watch.until = began
            self._watched[worker] = watch
        self.beats = beats

    def is_dead(self, worker: str) -> bool:
        """Whether the last look has shown a worker dead. Of one without a row it says nothing."""
        beat, watch = self.beats.get(worker), self._watched.get(worker)
        if beat is not None and beat.state is WorkerState.DEAD:
            return True
        return watch is not None and watch.until - watch.since >= self._lease

    def due(self) -> float:
        """How long until the next worker may turn out to be dead."""
        now = self._clock()
        ends = [watch.since + self._lease - now for watch in self._watched.values()]
        return min((end for end in ends if end > 0), default=self._lease)
