"""The one writer of a worker: everything that waits, of all streams, goes into one commit."""

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Iterator

from mcp_persist_middleware import rarely
from mcp_persist_middleware.log.base import EventLog
from mcp_persist_middleware.log.commits import Commits
from mcp_persist_middleware.log.live import LiveStream
from mcp_persist_middleware.log.pacing import Pacing
from mcp_persist_middleware.log.queue import Batch, WriteQueue
from mcp_persist_middleware.model import Ending, EventKind
from mcp_persist_middleware.supervision import Supervisor, end
from mcp_persist_middleware.wakeups.local import Signal

logger = rarely.logger(__name__)

# A commit that takes longer (seconds) holds up nobody else's beside a second committer.
_SLOW = 0.05
# How long (seconds) an answer that is told already waits for others, and the row of a new stream
# for the stream's first event: most calls are over by then, and are written once so.
_PATIENCE, _ROW_PATIENCE = 0.01, 0.05


class Writer:
    """Group commit (DeWitt et al., 1984): while one batch is on its way the next one gathers.

    A stream may run ahead of the store by a bounded number of events and bytes; then whoever
    appends to it waits. On a fast path events wait for nothing that takes another. When the store
    has failed for `timeout` seconds what waits is degraded, as each new one is until it is back.

    Args:
        may_write: whether this worker still holds its lease; asked before every commit.
    """

    def __init__(
        self,
        log: EventLog,
        timeout: float,
        may_write: Callable[[], bool] = lambda: True,
        tasks: Supervisor | None = None,
    ) -> None:
        self._log = log
        self._tasks = tasks or Supervisor()
        self._timeout = timeout
        self._may_write = may_write
        self._queue = WriteQueue(log.max_in_flight)
        self._wake = asyncio.Event()
        self._pressure = Signal()
        self._is_pressed, self._pacing = False, Pacing()
        self._idle = asyncio.Event()
        self._committers: list[asyncio.Task[None]] = []
        self._soon: asyncio.TimerHandle | None = None
        self._row_due: asyncio.TimerHandle | None = None
        self._commits = Commits(log, self._queue, timeout, self._wake.set, self._tasks)
        self._second_committer = asyncio.Event()
        self._is_flying = self._is_slow = False
        self.live = self._commits.live
        """The streams that are written here, by id."""

    @property
    def is_down(self) -> bool:
        """Whether the store has failed for longer than `timeout`."""
        return self._commits.is_down

    @property
    def queued_events(self) -> int:
        """How many events wait for the store."""
        return sum(stream.waiting for stream in self._queue.streams)

    @property
    def commit_lag(self) -> float:
        """How long (seconds) the oldest commit on its way has taken by now; 0 where none is."""
        return self._commits.lag

    @property
    def is_prompt(self) -> bool:
        """Whether what is queued now is committed in a moment, as far as can be known."""
        return self._commits.are_prompt

    def start(self) -> None:
        """Begin to commit."""
        runs = [self._run, *[self._assist] * (self._log.max_in_flight - 1)]
        self._committers = [self._tasks.keep(run, "mcp-persist-writer") for run in runs]

    async def abandon(self) -> None:
        """Drop what waits and stop: the streams are not this worker's any more. Whoever still
        writes to them writes to nobody."""
        for task in self._committers:
            task.cancel()
        self._commits.abandon()
        self._queue.clear()
        await self.aclose(0)

    async def aclose(self, timeout: float) -> None:
        """Commit what waits, for at most `timeout` seconds, and stop."""
        if not self._committers:
            return
        self._queue.hurry(math.inf)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while self._queue and self._may_write() and not self.is_down:
                    if all(committer.done() for committer in self._committers):
                        # The event loop is about to end, and has ended them first.
                        await self._step()
                        continue
                    self._idle.clear()
                    self._wake.set()
                    await self._idle.wait()
        for timer in (self._soon, self._row_due):
            if timer is not None:
                timer.cancel()
        committers, self._committers = self._committers, []
        await end(*committers)
        # Either committer may have begun one while it ended.
        await self._commits.aclose()

    def open(self, stream: LiveStream) -> None:
        """Queue the beginning of a stream. It waits a moment for the first event, so that a short
        call is one row in one batch, not two."""
        self._commits.watch(stream)
        self._queue.add_patient(stream, time.monotonic() + _ROW_PATIENCE)
        if self._row_due is None:
            self._row_due = asyncio.get_running_loop().call_later(_ROW_PATIENCE, self._hurry_rows)

    def hurry(self, stream: LiveStream) -> None:
        """Somebody waits until the stream is in the store."""
        if not (stream.created or stream.degraded):
            self._touch(stream)

    def _hurry_rows(self) -> None:
        self._row_due = None
        now = time.monotonic()
        if (due := self._queue.hurry(now)) is not None:
            self._row_due = asyncio.get_running_loop().call_later(due - now, self._hurry_rows)
        self._wake.set()

    def go_on(self, stream: LiveStream) -> None:
        """Write a stream from now on that was taken over from another worker."""
        self._commits.watch(stream)

    def _gather(self, stream: LiveStream) -> None:
        """It goes with what comes next, or in a moment."""
        self._queue.add(stream)
        if self._soon is None:
            self._soon = asyncio.get_running_loop().call_later(_PATIENCE, self._begin)

    def _begin(self) -> None:
        self._soon = None
        self._wake.set()

    def _touch(self, stream: LiveStream) -> None:
        if stream.degraded:
            self._commits.let_go(stream)
        else:
            self._queue.add(stream)
        self._wake.set()
        if self._is_slow or (self._is_split and not self._is_quick(stream)):
            self._second_committer.set()

    def _flush_hint(self) -> None:
        """A stream is full, or ends: nothing more is to be gathered for it."""
        self._is_pressed = True
        self._pressure.notify()
        if self._is_flying:
            self._second_committer.set()

    async def append(self, stream: LiveStream, events: list[tuple[EventKind, bytes]]) -> None:
        """Queue events; return when the stream may be given more."""
        for kind, frame in events:
            stream.add(kind, frame)
        self._touch(stream)
        while stream.is_full(self._queue.share):
            self._flush_hint()
            # Woken by every commit and by the end of the store's patience.
            await stream.space_available.wait(self._timeout)

    def end(self, stream: LiveStream, ending: Ending, *, is_told: bool = False) -> None:
        """Queue the end of a stream, behind all its events.

        Args:
            is_told: whoever has asked for the answer has it now, if it is the last word: nobody
                waits for its commit, which others may share.
        """
        if stream.ending is not None:
            return
        stream.ending = ending
        if is_told and stream.last_word is not None:
            self._gather(stream)
            stream.signal.notify()
        else:
            self._flush_hint()
            self._touch(stream)

    async def _run(self) -> None:
        # What an earlier life has left waits already.
        self._wake.set()
        while True:
            if not self._queue:
                self._idle.set()
            await self._wake.wait()
            self._wake.clear()
            if not self._may_write():
                return
            with self._going_on():
                await self._step()

    async def _assist(self) -> None:
        """While the first committer's batch is on its way: take what is full, ends or fills a
        batch, and all that waits where that one is slow. Beside a fast path: what is not for it."""
        self._second_committer.set()
        while True:
            if not self._is_split:  # What pressed may have gone with the first one.
                self._second_committer.clear()
            if self._queue.has_more and not self._is_flying:
                # What was left to this one is the first one's where the fast path came or went.
                self._wake.set()
            await self._second_committer.wait()
            self._second_committer.clear()
            if not self._may_write():
                return
            while not self.is_down and (batch := self._second_batch()):
                with self._going_on():
                    await self._commits.commit(batch)
                # What came for these streams meanwhile was passed over.
                self._wake.set()
                if not (self._is_split or self._is_slow or self._queue.fills_a_batch):
                    break

    @property
    def _is_split(self) -> bool:
        """Whether each committer has batches of its own kind."""
        return self._log.has_fast_path and not any(each.done() for each in self._committers)

    def _is_quick(self, stream: LiveStream) -> bool:
        """Whether all that waits of a stream takes the fast path."""
        return stream.only_adds and self._log.takes_fast(stream.record.id, stream.waiting_bytes)

    def _second_batch(self) -> Batch:
        if self._is_split:
            # The first one waits for SQL as well, for what the fast path has refused.
            quick = self._queue.gather(self._is_quick) if self._is_slow else []
            return quick or self._queue.gather(lambda stream: not self._is_quick(stream))
        return self._queue.gather() if self._is_flying else []

    def _first_batch(self) -> Batch:
        batch = self._queue.gather(self._is_quick if self._is_split else None)
        if self._is_split and self._queue.has_more:
            self._second_committer.set()
        return batch

    async def _fly(self, batch: Batch) -> None:
        """Commit a batch as the first committer."""
        self._is_flying = True
        if self._queue.fills_a_batch:
            self._second_committer.set()
        slow = asyncio.get_running_loop().call_later(_SLOW, self._slow_down)
        try:
            await self._commits.commit(batch)
        finally:
            slow.cancel()
            self._is_flying = self._is_slow = False

    def _slow_down(self) -> None:
        self._is_slow = True
        if self._queue.has_more:
            self._second_committer.set()

    @contextlib.contextmanager
    def _going_on(self) -> Iterator[None]:
        try:
            yield
        except Exception:
            logger.exception("MPM-LOG-05: The log writer met an unexpected error and goes on")
            self._commits.give_up("unexpected error")

    async def _step(self) -> None:
        if self.is_down:
            self._commits.give_up("the store is down")
            return
        while self._queue:
            await self._linger()
            if not (self._may_write() and (batch := self._first_batch())):
                break
            self._is_pressed = False
            self._pacing.begin(batch)
            await self._fly(batch)
        if not self.is_down:
            await self._commits.pay()
        self._commits.tell_end()

    async def _linger(self) -> None:
        """Commit less often where events come fast: fewer, larger batches cost less in all. A
        stream that is full or ends does not wait, and neither does a whole batch."""
        wait = self._pacing.left
        if wait > 0 and not (self._is_pressed or self._queue.fills_a_batch):
            await self._pressure.wait(wait)
