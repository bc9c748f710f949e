"""Readers elsewhere: a worker that reads a stream of another notes so in the store, for the owner
of the stream takes silence for the client's leaving."""

import asyncio
import contextlib
import logging
import math
import time
from collections import Counter
from collections.abc import Iterator

from mcp_persist_middleware.errors import StoreError
from mcp_persist_middleware.log.base import EventLog
from mcp_persist_middleware.log.live import LiveStream
from mcp_persist_middleware.supervision import Supervisor, end
from mcp_persist_middleware.wakeups.local import Signal

logger = logging.getLogger(__name__)

# A note counts for `_LEASE` seconds and is renewed when it is `_RENEW` old: a worker may be late
# by the difference. Notes that fall due together are one write, and writes are `_PAUSE` apart.
_LEASE, _RENEW, _PAUSE = 4.0, 1.5, 0.1
# A store that cannot say whether somebody reads elsewhere is asked this often, so many seconds
# apart; then what this worker knows decides.
_QUESTIONS, _ASK_AGAIN = 3, 1.0


class ReaderLeases:
    """Notes the streams of other workers that clients of this worker read, while they do.

    A reader that leaves writes nothing: its note runs out. So a client that is sent away and back
    costs no write each time, and cannot take away the note of another worker's reader.
    """

    def __init__(self, log: EventLog, tasks: Supervisor | None = None) -> None:
        self._log = log
        self._tasks = tasks or Supervisor()
        self._readers: Counter[bytes] = Counter()
        self._noted: dict[bytes, float] = {}
        self._came = Signal()
        self._task: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def reading(self, stream: bytes) -> Iterator[None]:
        """Somebody reads a stream here."""
        self._readers[stream] += 1
        if self._task is None:
            self._task = self._tasks.keep(self._run, "mcp-persist-attendance")
        elif stream not in self._noted:
            self._came.notify()
        try:
            yield
        finally:
            self._readers[stream] -= 1
            if not self._readers[stream]:
                del self._readers[stream]

    async def lease(self, stream: LiveStream | None) -> float:
        """For how long (seconds) somebody is known to read a stream of this worker elsewhere;
        negative when nobody is: so long ago the last one did."""
        if stream is None or stream.degraded:
            return -math.inf
        for _ in range(_QUESTIONS):
            try:
                left = await self._log.reader_ttl(stream.record.id)
            except Exception:  # noqa: BLE001
                # A store of somebody else's may fail in any way: its owner goes on.
                await asyncio.sleep(_ASK_AGAIN)
            else:
                return left if left is not None else -math.inf
        return -math.inf

    async def aclose(self) -> None:
        """Note nothing more."""
        task, self._task = self._task, None
        await end(task)

    async def _run(self) -> None:
        """Until nobody has read for a while."""
        while self._readers or self._noted:
            pause = await self._note()
            if pause > 0:
                await self._came.wait(pause)
        self._task = None

    async def _note(self) -> float:
        """Note what is due; the seconds until something is again."""
        now, never = time.monotonic(), -math.inf
        self._noted = {
            stream: at
            for stream, at in self._noted.items()
            if stream in self._readers or now - at < _RENEW
        }
        # What is due soon rides along.
        due = [s for s in self._readers if now - self._noted.get(s, never) >= _RENEW / 2]
        if due:
            try:
                await self._log.renew_readers(due, _LEASE)
                self._noted |= dict.fromkeys(due, now)
            except StoreError as error:
                logger.warning(
                    "MPM-WORKER-07: The readers of other workers' streams cannot be noted: %s",
                    error,
                )
                await asyncio.sleep(_RENEW)
            await asyncio.sleep(_PAUSE)
        times = [self._noted.get(stream, never) for stream in self._readers]
        return min(times or self._noted.values(), default=now) + _RENEW - time.monotonic()
