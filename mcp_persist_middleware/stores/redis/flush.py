"""Write-behind: what Redis has acknowledged goes to SQL in large batches, in order."""

import asyncio
import contextlib
import time
from collections.abc import Callable

from mcp_persist_middleware import rarely, telemetry
from mcp_persist_middleware.errors import StoreError
from mcp_persist_middleware.log.base import EventLog
from mcp_persist_middleware.model import Event, Outcome, StreamWrite
from mcp_persist_middleware.stores.redis.write_behind import WriteBehindBuffer, WriteBehindBuffers

logger = rarely.logger(__name__)

# How long an event waits for others to go with it, how many go together (an end of a stream waits
# for as many at most), and how long after a failure the next attempt comes (seconds).
_DELAY, _BATCH, _PAUSE = 0.05, 512, 0.1
_PAGE = (1024, 16 * 1024 * 1024)


class Flusher:
    """Moves backlogs into the SQL log. `lock` is held by whoever writes streams of ours there, so
    that each stream's events arrive in their order."""

    def __init__(
        self, inner: EventLog, buffers: WriteBehindBuffers, rest: Callable[[], None]
    ) -> None:
        self._inner = inner
        self._buffers = buffers
        self._rest = rest
        self._failing = False
        self.lock = asyncio.Lock()

    async def run(self) -> None:
        """Run until cancelled."""
        while True:
            self._rest()
            dirty = self._buffers.dirty()
            if not dirty:
                await self._buffers.came.wait(1.0)
            elif (wait := dirty[0].since + _DELAY - time.monotonic()) > 0 and (
                self._buffers.events < _BATCH
            ):
                await self._buffers.came.wait(wait)
            elif not await self._try():
                await asyncio.sleep(_PAUSE)

    async def _try(self) -> bool:
        try:
            async with self.lock:
                done = await self.step()
        except StoreError as error:
            telemetry.store_failures.add(1)
            if not self._failing:
                logger.warning(
                    "MPM-REDIS-05: %s Events wait in Redis and in memory until it is back.", error
                )
            self._failing = True
            return False
        except Exception:
            logger.exception("MPM-REDIS-06: The flush to SQL met an unexpected error and goes on")
            return False
        self._failing = False
        return done

    async def finish(self, timeout: float) -> None:
        """Flush all, for at most so many seconds; what is left stays in Redis for the others."""
        with contextlib.suppress(TimeoutError, StoreError):
            async with asyncio.timeout(timeout), self.lock:
                while await self.step():
                    pass

    async def step(self) -> bool:
        """One batch, under the lock; whether there was any."""
        took: list[tuple[WriteBehindBuffer, list[Event]]] = []
        left = _BATCH
        for buffer in self._buffers.dirty():
            if left <= 0:
                break
            events = buffer.backlog[: min(left, buffer.acknowledged - buffer.flushed)]
            if events:
                took.append((buffer, events))
                left -= len(events)
        if not took:
            return False
        began = time.monotonic()
        writes = [
            StreamWrite(buffer.id, buffer.epoch, events=tuple(events)) for buffer, events in took
        ]
        outcomes = await self._inner.append(writes)
        telemetry.redis_flush_seconds.record(time.monotonic() - began)
        for (buffer, events), outcome in zip(took, outcomes, strict=True):
            await self._note(buffer, events, outcome)
        return True

    async def only(self, buffer: WriteBehindBuffer) -> bool:
        """The claimed backlog of one stream, under the lock; whether the stream is still ours."""
        while events := buffer.backlog[: buffer.acknowledged - buffer.flushed]:
            write = StreamWrite(buffer.id, buffer.epoch, events=tuple(events))
            (outcome,) = await self._inner.append([write])
            await self._note(buffer, events, outcome)
            if self._buffers.get(buffer.id) is not buffer:
                return False
        return True

    async def _note(self, buffer: WriteBehindBuffer, events: list[Event], outcome: Outcome) -> None:
        match outcome:
            case Outcome.COMMITTED:
                self._buffers.flushed(buffer, events[-1].sequence)
            case Outcome.FENCED:
                # Who took it over has drained what Redis had.
                logger.warning(
                    "MPM-REDIS-07: A stream was taken over while events of it waited for SQL."
                )
                self._buffers.drop(buffer)
            case Outcome.REJECTED:
                await self._look(buffer, events)

    async def _look(self, buffer: WriteBehindBuffer, events: list[Event]) -> None:
        """Somebody else may have drained a part of these very events."""
        there = await self._inner.read(buffer.id, buffer.flushed, *_PAGE)
        same = 0
        for mine, theirs in zip(events, there, strict=False):
            if mine != theirs:
                break
            same = mine.sequence
        if same:
            self._buffers.flushed(buffer, same)
            return
        logger.error(
            "MPM-REDIS-08: SQL refuses %d events that Redis took; the stream goes on without the "
            "log.",
            len(events),
        )
        self._buffers.drop(buffer)
