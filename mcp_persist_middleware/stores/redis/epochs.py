"""In which epoch the streams are that others write. SQL says it; what it has said counts for a
moment, and who asks for one stream asks for all that are read here."""

import asyncio
import contextlib
import contextvars
import time
from collections.abc import Sequence

from mcp_persist_middleware.errors import StoreError
from mcp_persist_middleware.grouped import Grouped
from mcp_persist_middleware.log.base import EventLog
from mcp_persist_middleware.model import StreamRecord, StreamState
from mcp_persist_middleware.recent import Recent
from mcp_persist_middleware.supervision import Tasks
from mcp_persist_middleware.wakeups.redis import RedisWakeups

# It counts for so long (seconds), and is asked anew, of so many together, when no more than so much
# of that is left; so many are kept.
_FRESH, _DUE, _TOGETHER, _MOST = 0.5, 0.25, 256, 4096


class Epochs:
    """The epochs of open streams.

    Args:
        inner: the SQL log.
        wakeups: of whoever reads here.
        running: owns what is asked.
        seconds: nobody waits longer for an answer.
    """

    def __init__(
        self,
        inner: EventLog,
        wakeups: RedisWakeups,
        running: Tasks,
        seconds: float,
    ) -> None:
        self._inner = inner
        self._wakeups = wakeups
        self._running = running
        self._known: Recent[bytes, tuple[int, float]] = Recent(_MOST)
        self._ahead: asyncio.Task[None] | None = None

        def late() -> StoreError:
            return StoreError(url=inner.name, reason=f"no answer in {seconds:g} s")

        self._grouped = Grouped(self._ask, running, seconds, late)

    async def of(self, stream: bytes) -> int:
        """The epoch of an open stream; 0 of one that has ended, or is not there.

        Raises:
            StoreError: SQL does not answer.
        """
        left = self._left(stream)
        if left <= 0:
            return await self._grouped.run(stream)
        if left <= _DUE and (self._ahead is None or self._ahead.done()):
            # Whoever comes next does not wait for that.
            self._ahead = self._running.begin(self._refresh(stream), context=contextvars.Context())
        return self._known[stream][0]

    async def _refresh(self, stream: bytes) -> None:
        with contextlib.suppress(StoreError):
            await self._grouped.run(stream)

    def note(self, stream: bytes, record: StreamRecord | None) -> None:
        """SQL has just said so of a stream."""
        is_open = record is not None and record.state is StreamState.OPEN
        self._note(stream, record.epoch if record is not None else 0, is_open=is_open)

    def _note(self, stream: bytes, epoch: int, *, is_open: bool) -> None:
        if is_open:
            self._known[stream] = epoch, time.monotonic() + _FRESH
        elif epoch:
            self._known[stream] = 0, float("inf")
        else:
            self._known.pop(stream, None)

    def _left(self, stream: bytes) -> float:
        """For how long what is known counts (seconds); 0 or less when nothing is."""
        return self._known[stream][1] - time.monotonic() if stream in self._known else 0.0

    async def _ask(self, streams: Sequence[bytes]) -> list[int]:
        asked = {stream: 0 for stream in streams if self._left(stream) <= _DUE}
        for topic in self._wakeups.topics if asked else ():
            if len(asked) >= _TOGETHER:
                break
            if topic in self._known and self._left(topic) <= _DUE:
                asked[topic] = 0
        found = await self._inner.last_numbers(asked) if asked else {}
        for stream in asked:
            now = found.get(stream)
            self._note(stream, now.epoch if now else 0, is_open=now is not None and now.is_open)
        return [self._known.get(stream, (0, 0.0))[0] for stream in streams]
