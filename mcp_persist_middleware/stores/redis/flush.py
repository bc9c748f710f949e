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
        self, inner: EventLog, tails: WriteBehindBuffers, rest: Callable[[], None]
    ) -> None:
        self._inner = inner
        self._tails = tails
        self._rest = rest
        self._failing = False
        self.lock = asyncio.Lock()

    async def run(self) -> None:
        """Run until cancelled."""
        while True:
            self._rest()
            dirty = self._tails.dirty()
            if not dirty:
                await self._tails.came.wait(1.0)
            elif (wait := dirty[0].since + _DELAY - time.monotonic()) > 0 and (
                self._tails.events < _BATCH
            ):
                await self._tails.came.wait(wait)
            elif not await self._try():
                await asyncio.sleep(_PAUSE)

    async def _try(self) -> bool:
        try:
            async with self.lock:
                done = await self.step()
        except StoreError as error:
            telemetry.store_failures.add(1)
            if not self._failing:
                logger.warning("%s Events wait in Redis and in memory until it is back.", error)
            self._failing = True
            return False
        except Exception:
            logger.exception("The flush to SQL met an unexpected error and goes on")
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
        for tail in self._tails.dirty():
            if left <= 0:
                break
            events = tail.backlog[: min(left, tail.acknowledged - tail.flushed)]
            if events:
                took.append((tail, events))
                left -= len(events)
        if not took:
            return False
        began = time.monotonic()
        writes = [StreamWrite(tail.id, tail.epoch, events=tuple(events)) for tail, events in took]
        outcomes = await self._inner.append(writes)
        telemetry.redis_flush_seconds.record(time.monotonic() - began)
        for (tail, events), outcome in zip(took, outcomes, strict=True):
            await self._note(tail, events, outcome)
        return True

    async def only(self, tail: WriteBehindBuffer) -> bool:
        """The claimed backlog of one stream, under the lock; whether the stream is still ours."""
        while events := tail.backlog[: tail.acknowledged - tail.flushed]:
            write = StreamWrite(tail.id, tail.epoch, events=tuple(events))
            (outcome,) = await self._inner.append([write])
            await self._note(tail, events, outcome)
            if self._tails.get(tail.id) is not tail:
                return False
        return True

    async def _note(self, tail: WriteBehindBuffer, events: list[Event], outcome: Outcome) -> None:
        match outcome:
            case Outcome.COMMITTED:
                self._tails.flushed(tail, events[-1].sequence)
            case Outcome.FENCED:
                # Who took it over has drained what Redis had.
                logger.warning("A stream was taken over while events of it waited for SQL.")
                self._tails.drop(tail)
            case Outcome.REJECTED:
                await self._look(tail, events)

    async def _look(self, tail: WriteBehindBuffer, events: list[Event]) -> None:
        """Somebody else may have drained a part of these very events."""
        there = await self._inner.read(tail.id, tail.flushed, *_PAGE)
        same = 0
        for mine, theirs in zip(events, there, strict=False):
            if mine != theirs:
                break
            same = mine.sequence
        if same:
            self._tails.flushed(tail, same)
            return
        logger.error(
            "SQL refuses %d events that Redis took; the stream goes on without the log.",
            len(events),
        )
        self._tails.drop(tail)
