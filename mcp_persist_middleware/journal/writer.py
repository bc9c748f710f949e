"""Writes what is told of exchanges to the journal, in batches of its own, beside the requests."""

import asyncio
import time
from collections import deque
from typing import Final, NamedTuple

from mcp_persist_middleware import rarely, telemetry
from mcp_persist_middleware.errors import StoreError
from mcp_persist_middleware.log.journal import Journal, JournalEntry, new_id
from mcp_persist_middleware.log.whose import Whose
from mcp_persist_middleware.model import FinishedExchange
from mcp_persist_middleware.supervision import say

logger = rarely.logger(__name__)

# So many wait for the store at most; what comes then is counted, and not kept.
MOST_WAITING: Final = 10_000
# Those of so long a time (seconds) are written together, so many in one transaction: in no way of
# the log for longer than a millisecond or two.
_LINGER, _TOGETHER = 0.5, 128
# After a failure (seconds); then twice as long, and so on.
_FIRST_PAUSE, _LAST_PAUSE = 1.0, 30.0
_MOST_FORGOTTEN = 1000
# What a client names may be of any length.
_LONGEST = 256


class Noted(NamedTuple):
    """An exchange that is to be written."""

    finished: FinishedExchange
    ended: float


class JournalWriter:
    """Takes note of exchanges that have ended. Nobody waits for it.

    Args:
        timeout: how long (seconds) the store may take for a batch.
        worker: whose exchanges these are.
    """

    def __init__(self, journal: Journal, timeout: float, worker: str) -> None:
        self._journal = journal
        self._timeout = timeout
        self._worker = worker
        self._waiting: deque[Noted] = deque()
        self._batch: list[JournalEntry] = []
        """What the store is to have next: what may be there already has the same id again."""
        self._forgotten: deque[tuple[float, Whose]] = deque(maxlen=_MOST_FORGOTTEN)
        """Who was forgotten of late, and when: calls of theirs may still run."""
        self._some = asyncio.Event()
        self._one_at_a_time = asyncio.Lock()

    def note(self, finished: FinishedExchange) -> None:
        """This exchange has ended."""
        if self._forgotten and self._is_forgotten(finished):
            return
        if len(self._waiting) >= MOST_WAITING:
            self._drop(1, "too many wait for the store")
            return
        self._waiting.append(Noted(finished, self._journal.now()))
        self._some.set()

    async def forget(self, whose: Whose) -> None:
        """Write nothing of what belongs to somebody and has begun by now; what is on its way to the
        store is there when this returns."""
        self._forgotten.append((time.monotonic(), whose))
        self._waiting = deque(n for n in self._waiting if not whose.has(n.finished.owner))
        async with self._one_at_a_time:
            self._batch = [each for each in self._batch if not whose.has(each.owner)]

    def _is_forgotten(self, finished: FinishedExchange) -> bool:
        began = time.monotonic() - finished.lasted
        return any(began <= at and whose.has(finished.owner) for at, whose in self._forgotten)

    async def run(self) -> None:
        """Write until cancelled."""
        pause = _FIRST_PAUSE
        while True:
            await self._some.wait()
            await asyncio.sleep(_LINGER)
            try:
                await self._write_all()
            except (StoreError, TimeoutError) as error:
                logger.warning("MPM-JOURNAL-02: The journal is written later: %s", error)
                await asyncio.sleep(pause)
                pause = min(_LAST_PAUSE, 2 * pause)
            else:
                pause = _FIRST_PAUSE

    async def aclose(self) -> None:
        """Write what waits, if the store takes it."""
        try:
            await self._write_all()
        except (StoreError, TimeoutError) as error:
            self._drop(len(self._waiting) + len(self._batch), str(error))

    async def _write_all(self) -> None:
        async with self._one_at_a_time:
            self._some.clear()
            try:
                while self._batch or self._waiting:
                    await self._write()
            except BaseException:
                self._some.set()
                raise

    async def _write(self) -> None:
        if not self._batch:
            count = min(_TOGETHER, len(self._waiting))
            self._batch = [self._entry(self._waiting.popleft()) for _ in range(count)]
        try:
            async with asyncio.timeout(self._timeout):
                await self._journal.write(self._batch)
        except (StoreError, TimeoutError):
            raise
        except Exception as error:  # noqa: BLE001
            # A mistake of ours or of whoever wrote the store: the next ones may be written.
            say("Writing to the journal", error)
            self._drop(len(self._batch), "the store raised")
        self._batch = []

    def _entry(self, noted: Noted) -> JournalEntry:
        finished, ended = noted
        return JournalEntry(
            id=new_id(ended),
            # By the store's clock, whatever this host's says.
            began=ended - finished.lasted,
            first_event=finished.first_after,
            duration=finished.lasted,
            method=_short(finished.method),
            tool=_short(finished.name),
            version=_short(finished.version)[:32],
            outcome=str(finished.outcome),
            error=_short(finished.error_type),
            size=finished.bytes_out,
            resumes=finished.resumes,
            stream=finished.stream or b"",
            owner=finished.owner,
            worker=self._worker,
            # Of `00-<trace>-<span>-01`.
            trace=finished.trace[3:35],
            params=finished.params,
        )

    def _drop(self, count: int, why: str) -> None:
        if count:
            telemetry.journal_dropped.add(count)
            logger.warning("MPM-JOURNAL-01: Entries of the journal are lost: %s", why)


def _short(text: str) -> str:
    # Half a surrogate is no text to any store.
    return text[:_LONGEST].encode("utf-8", "replace").decode()
