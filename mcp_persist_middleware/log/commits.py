"""What becomes of batches: attempts, outcomes, and streams that go on without the store."""

import asyncio
import time
from collections.abc import Callable

from mcp_persist_middleware import rarely, telemetry
from mcp_persist_middleware.errors import StoreError
from mcp_persist_middleware.log.base import EventLog
from mcp_persist_middleware.log.breaker import StoreBreaker
from mcp_persist_middleware.log.live import LiveStream
from mcp_persist_middleware.log.pending_answers import PendingAnswers
from mcp_persist_middleware.log.queue import Batch, WriteQueue, events_in
from mcp_persist_middleware.model import Outcome, StreamKind, StreamWrite
from mcp_persist_middleware.supervision import Supervisor

logger = rarely.logger(__name__)

_FIRST_RETRY, _LAST_RETRY = 0.02, 0.5
# A store that takes longer (seconds), or for which more streams wait, keeps them waiting.
_LATE, _FEW = 1.0, 256


class Commits:
    """Commits batches of what waits in `queue`. When the store has failed for `timeout` seconds the
    streams that wait are degraded. One that answers and takes nothing, as on a full disk, is not
    trusted again before it has committed something, and until then no stream waits for a second
    attempt.

    Args:
        on_back: called when a store that was away answers again.
    """

    def __init__(
        self,
        log: EventLog,
        queue: WriteQueue,
        timeout: float,
        on_back: Callable[[], None],
        tasks: Supervisor,
    ) -> None:
        self._log = log
        self._queue = queue
        self._timeout = timeout
        self._pending_answers = PendingAnswers(log)
        self._breaker = StoreBreaker(log, on_back, tasks)
        self._begun: set[float] = set()
        self.is_failing = False
        """Whether the last attempt has failed."""
        self.live: dict[bytes, LiveStream] = {}
        """The streams that are written here, by id."""

    @property
    def is_down(self) -> bool:
        """Whether the store has failed for longer than `timeout`."""
        return self._breaker.is_open

    @property
    def lag(self) -> float:
        """How long (seconds) the oldest commit that is on its way has taken by now, each attempt
        included; 0 when there is none."""
        return time.monotonic() - min(self._begun) if self._begun else 0.0

    @property
    def are_prompt(self) -> bool:
        """Whether what is queued now is committed in a moment, as far as can be known."""
        if self.is_down or self.is_failing or len(self._queue) > _FEW:
            return False
        return self.lag < _LATE

    def watch(self, stream: LiveStream) -> None:
        """It is written here from now on."""
        self.live[stream.record.id] = stream
        telemetry.streams.add(1)

    def abandon(self) -> None:
        """The streams are not this worker's any more."""
        for stream in self.live.values():
            stream.degrade()
        telemetry.streams.add(-len(self.live))
        self.live.clear()
        self._pending_answers.clear()

    async def aclose(self) -> None:
        """Ask no more whether the store is back."""
        await self._breaker.aclose()

    def tell_end(self) -> None:
        """All that waited has been seen to."""
        self._breaker.tell_end()

    async def commit(self, batch: Batch) -> None:
        """Commit a batch, however often that has to be tried; it is `complete` then."""
        self._begun.add(began := time.monotonic())
        try:
            await self._send(batch)
        finally:
            self._begun.discard(began)
            self._queue.complete(batch)

    async def _send(self, batch: Batch) -> None:
        began, outages = time.monotonic(), self._breaker.number
        outcomes = await self._try([write for _, write in batch], began)
        # The other committer may have found the store away since, and given up these streams too:
        # what is heard here then says nothing of the store as it is now.
        is_stale = outages != self._breaker.number
        if outcomes is None:
            if not is_stale:
                self._breaker.begin()
                self.give_up("the store does not answer")
            return
        if not is_stale:
            self._breaker.is_half_open = True
        telemetry.commit_seconds.record(time.monotonic() - began)
        telemetry.batches.record(events_in(batch))
        for (stream, write), outcome in zip(batch, outcomes, strict=True):
            # One that was given up meanwhile is seen to by its debt.
            if not stream.degraded:
                self._settle(stream, write, outcome)

    def _settle(self, stream: LiveStream, write: StreamWrite, outcome: Outcome) -> None:
        match outcome:
            case Outcome.COMMITTED:
                _count(stream, write)
                stream.commit(write)
                if stream.ended:
                    self._forget(stream)
            case Outcome.FENCED if _is_handed_over(stream):
                logger.info("A stream is not written here any more")
                self._queue.discard(stream)
                stream.hand_over()
                self._forget(stream)
            case Outcome.FENCED | Outcome.REJECTED:
                self._degrade(stream, outcome.value)

    async def _try(self, writes: list[StreamWrite], began: float) -> list[Outcome] | None:
        """Append with retries; None when the store's time is over."""
        pause, outages = _FIRST_RETRY, self._breaker.number
        while True:
            try:
                outcomes = await self._log.append(writes)
            except StoreError as error:
                self.is_failing = True
                telemetry.store_failures.add(1)
                if outages != self._breaker.number:
                    return None
                late = time.monotonic() - began + pause > self._timeout
                if late or not self._breaker.is_half_open:
                    self._breaker.tell(error)
                    return None
                logger.warning("MPM-LOG-03: %s It is tried again.", error)
            else:
                self.is_failing = False
                return outcomes
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LAST_RETRY)

    async def pay(self) -> None:
        """Log the answers of streams that ended while the store was away."""
        try:
            async for stream in self._pending_answers.pay():
                self._breaker.is_half_open = True
                self._forget(stream)
        except StoreError:
            self._breaker.begin()

    def give_up(self, why: str) -> None:
        """Degrade all streams that wait."""
        for stream in self._queue.streams:
            self._degrade(stream, why)

    def _degrade(self, stream: LiveStream, why: str) -> None:
        if not stream.degraded:
            namespace = stream.record.owner.namespace
            telemetry.degraded.add(1, {"namespace": namespace, "reason": why})
            logger.warning("MPM-LOG-04: A stream goes on without the log: %s.", why)
            stream.degrade()
            if stream.on_lost is not None:
                stream.on_lost()
        self.let_go(stream)

    def let_go(self, stream: LiveStream) -> None:
        """A degraded stream asks nothing more of the store but to keep its answer."""
        self._queue.discard(stream)
        stream.degrade()
        if stream.ended and (forgiven := self._pending_answers.add(stream)) is not None:
            self._forget(forgiven)

    def _forget(self, stream: LiveStream) -> None:
        if self.live.get(stream.record.id) is stream:
            del self.live[stream.record.id]
            telemetry.streams.add(-1)


def _is_handed_over(stream: LiveStream) -> bool:
    """Whether a stream that is another worker's now is over here. Of a call that is read here the
    answer is on its way to its client; one that nobody reads is cancelled, or ended otherwise."""
    is_read = stream.readers > 0 or not stream.created
    return stream.record.kind is StreamKind.GET or not is_read


def _count(stream: LiveStream, write: StreamWrite) -> None:
    where = {"namespace": stream.record.owner.namespace}
    telemetry.events.add(len(write.events), where)
    telemetry.event_bytes.add(sum(len(event.frame) for event in write.events), where)
