"""What the store is still to be told of streams that went on without it: their answers."""

from collections import deque
from collections.abc import AsyncIterator

from mcp_persist_middleware.log.base import EventLog
from mcp_persist_middleware.log.live import LiveStream
from mcp_persist_middleware.log.queue import BATCH_EVENTS
from mcp_persist_middleware.model import Outcome, StreamState

_MOST = 1000
# No batch brings more than that to a stream.
_GIVEN_UP = (BATCH_EVENTS + 1, 1 << 62)


class PendingAnswers:
    """Degraded streams that have ended; of too many the oldest are let off."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._owed: deque[LiveStream] = deque()

    def add(self, stream: LiveStream) -> LiveStream | None:
        """Keep a stream; one that is not kept any more, if there is one."""
        if stream not in self._owed:
            self._owed.append(stream)
        return self._owed.popleft() if len(self._owed) > _MOST else None

    def clear(self) -> None:
        """Nothing is owed."""
        self._owed.clear()

    async def pay(self) -> AsyncIterator[LiveStream]:
        """Log the answers, stream by stream; each that is done with.

        Raises:
            StoreError: the store does not answer; the rest stays owed.
        """
        while self._owed:
            stream = self._owed[0]
            await self._pay(stream)
            if self._owed and self._owed[0] is stream:
                self._owed.popleft()
            yield stream

    async def _pay(self, stream: LiveStream) -> None:
        write = stream.response_write()
        if write is None or await self._log.append([write]) == [Outcome.COMMITTED]:
            return
        # A commit that was given up may have come about: the answers go behind what it brought.
        record = await self._log.find(stream.record.id)
        if record is None or (record.epoch, record.state) != (write.takes_over, StreamState.OPEN):
            return
        stream.created = True
        found = await self._log.read(record.id, stream.committed, *_GIVEN_UP)
        if (write := stream.response_write(found)) is not None:
            await self._log.append([write])
