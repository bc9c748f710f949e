"""Whether a worker is gone, asked by whoever finds something that it left behind."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mcp_persist_middleware.log.base import EventLog
from mcp_persist_middleware.log.membership.failure_detector import FailureDetector
from mcp_persist_middleware.model import WorkerState
from mcp_persist_middleware.recent import Recent

# A worker that was there is not looked for again for so long (seconds), of so many: to look is to
# try the lock of a file.
_MOMENT, _MOST = 0.05, 1024


@dataclass(frozen=True, slots=True)
class PeerStatus:
    """What is known about a worker."""

    gone: bool
    draining: bool = False
    seen_at: float | None = None
    """The time of its last heartbeat; None when its row has been removed."""


class Peers:
    """Joins the three witnesses: the store's host, the row, and what this worker has observed.

    A worker without a row is gone: it has left in order, or died and was cleared away. Ask about
    a worker only after its name was read in the store; it enrols before it writes anything.
    """

    def __init__(
        self,
        log: EventLog,
        failure_detector: FailureDetector,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log = log
        self._clock = clock
        self._failure_detector = failure_detector
        self._seen: Recent[str, float] = Recent(_MOST)

    def others(self, worker: str) -> list[str]:
        """The workers beside this one that were there at the last look."""
        return [other for other in self._beside(worker) if not self._log.is_gone(other)]

    def has_peers(self, worker: str) -> bool:
        """Whether another worker than this one was there at the last look."""
        return any(self._beside(worker))

    def _beside(self, worker: str) -> Iterator[str]:
        for other, beat in self._failure_detector.beats.items():
            if other != worker and beat.state is not WorkerState.DEAD:
                yield other

    def is_suspect(self, worker: str) -> bool:
        """Whether there is any reason to `verify`. Costs nothing: for those who look often."""
        beat = self._failure_detector.beats.get(worker)
        return (
            beat is None
            or beat.state is not WorkerState.LIVE
            or self._failure_detector.is_dead(worker)
            or self._is_gone(worker)
        )

    def _is_gone(self, worker: str) -> bool:
        now = self._clock()
        if now - self._seen.get(worker, -_MOMENT) < _MOMENT:
            return False
        is_gone = self._log.is_gone(worker)
        if not is_gone:
            self._seen[worker] = now
        return is_gone

    async def verify(self, worker: str) -> PeerStatus:
        """The state of a worker. Who was found dead by its silence is dead for everybody from
        now on, itself included.

        Raises:
            StoreError: the store does not answer.
        """
        observed = self._failure_detector.beats.get(worker)
        silent = self._failure_detector.is_dead(worker) and observed is not None
        beats = await self._log.workers()
        beat = beats.get(worker)
        if beat is None:
            return PeerStatus(gone=True, seen_at=observed.seen_at if observed is not None else None)
        gone = beat.state is WorkerState.DEAD
        if not gone and (self._log.is_gone(worker) or (silent and beat == observed)):
            gone = await self._log.declare_dead(worker, beat.counter)
        return PeerStatus(gone, beat.state is WorkerState.DRAINING, beat.seen_at)
