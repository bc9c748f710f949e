"""One batch on its way: which of its entries Redis takes, which SQL, and what follows from that."""

import asyncio
import contextlib
import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from mcp_persist_middleware import telemetry
from mcp_persist_middleware.errors import StoreError
from mcp_persist_middleware.log.base import EventLog
from mcp_persist_middleware.model import Outcome, StreamWrite
from mcp_persist_middleware.stores.redis import scripts
from mcp_persist_middleware.stores.redis.client import RedisClient
from mcp_persist_middleware.stores.redis.errors import RedisAwayError
from mcp_persist_middleware.stores.redis.flush import Flusher
from mcp_persist_middleware.stores.redis.recovery import Recovery
from mcp_persist_middleware.stores.redis.scripts import Keys, ScriptCall, StreamAppend
from mcp_persist_middleware.stores.redis.write_behind import WriteBehindBuffers
from mcp_persist_middleware.wakeups.redis import RedisWakeups

# Of what SQL has, so many events stay in Redis for readers that are a little behind.
_KEPT = 256
_LARGE = 1024 * 1024

Entries = list[tuple[int, StreamWrite]]


class Appender:
    """Commits batches.

    The life of a stream is in SQL: beginnings, ends, takeovers and trims are committed there,
    each with all that came before it on its stream. What Redis takes is the next events of a
    stream that is open and ours.

    Args:
        later: sends commands to Redis soon after; nothing depends on them.
        confirmed: a stream begins in Redis within so many seconds after SQL has taken something
            of it in this epoch, so that a worker which was replaced meanwhile learns of it.
    """

    def __init__(
        self,
        inner: EventLog,
        client: RedisClient,
        buffers: WriteBehindBuffers,
        flusher: Flusher,
        recovery: Recovery,
        later: Callable[..., None],
        wakeups: RedisWakeups,
        confirmed: float,
    ) -> None:
        self._inner = inner
        self._client = client
        self._buffers = buffers
        self._flusher = flusher
        self._recovery = recovery
        self._later = later
        self._wakeups = wakeups
        self._confirmed = confirmed

    async def append(self, keys: Keys, batch: Sequence[StreamWrite]) -> list[Outcome]:
        """The outcome of each entry, in order; see `EventLog.append`."""
        outcomes: dict[int, Outcome] = {}
        fast, direct, again = self._sort(batch)
        if fast:
            await self._buffers.room()
        if direct and fast:
            done = await asyncio.gather(
                self._in_sql(keys, direct, outcomes),
                self._in_redis(keys, fast, outcomes),
                return_exceptions=True,
            )
            for failure in done:
                if failure is not None:
                    raise failure
        else:
            await self._in_sql(keys, direct, outcomes)
            await self._in_redis(keys, fast, outcomes)
        for entry in again:
            await self._in_sql(keys, [entry], outcomes)
        for n, write in enumerate(batch):
            buffer = self._buffers.get(write.id)
            if buffer is not None and write.events and outcomes[n] is Outcome.COMMITTED:
                buffer.acknowledged = max(
                    buffer.acknowledged, min(buffer.last, write.events[-1].sequence)
                )
        self._buffers.came.notify()
        return [outcomes[n] for n in range(len(batch))]

    def _sort(self, batch: Sequence[StreamWrite]) -> tuple[Entries, Entries, Entries]:
        """Those for Redis, those for SQL, and those of streams that are there more than once."""
        fast: Entries = []
        direct: Entries = []
        again: Entries = []
        times = Counter(write.id for write in batch)
        for n, write in enumerate(batch):
            buffer = self._buffers.get(write.id)
            if times[write.id] > 1:
                again.append((n, write))
            elif buffer is None or not write.only_adds:
                direct.append((n, write))
            elif buffer.follows(write) and self.takes_fast(write.id, write.size):
                fast.append((n, write))
            else:
                direct.append((n, write))
        return fast, direct, again

    def takes_fast(self, stream: bytes, size: int) -> bool:
        """Whether Redis takes the next events of a stream, of so many bytes, just now."""
        buffer = self._buffers.get(stream)
        return (
            buffer is not None
            and self._client.is_up
            and (buffer.begun or time.monotonic() - buffer.confirmed < self._confirmed)
            and size <= _LARGE
        )

    # Redis.

    async def _in_redis(self, keys: Keys, entries: Entries, outcomes: dict[int, Outcome]) -> None:
        # Some may have been lost while there was no room: the others do not wait for those.
        lost = [entry for entry in entries if self._buffers.get(entry[1].id) is None]
        here = [entry for entry in entries if entry not in lost] if lost else entries
        if here:
            lost += await self._sent(keys, here, outcomes)
        await self._back_to_sql(keys, lost, outcomes)

    async def _sent(self, keys: Keys, entries: Entries, outcomes: dict[int, Outcome]) -> Entries:
        """Those that Redis has not taken."""
        # Before anything is sent: what is not answered may have been done.
        naming, together = self._naming(keys, entries), self._client.target.streams_at_once
        appends = [self._next(keys, write) for _, write in entries]
        calls = scripts.appending(appends, together)
        try:
            replies = await self._client.exchange([*naming, *calls])
        except RedisAwayError:
            return entries
        named, replies = replies[: len(naming)], replies[len(naming) :]
        answers = scripts.appended(replies, len(entries), together)
        if any(isinstance(reply, Exception) for reply in (*named, *answers)):
            self._name_again(entries)
        answered = zip(entries, answers, strict=True)
        return [one for one, reply in answered if not await self._answered(one, reply, outcomes)]

    def _naming(self, keys: Keys, entries: Entries) -> list[ScriptCall]:
        """What puts those into the index that are not in it."""
        names: list[float | bytes] = []
        for _, write in entries:
            buffer = self._buffers.get(write.id)
            if buffer is not None and not buffer.indexed:
                names += [self._inner.now(), write.id]
                buffer.indexed = True
        return [ScriptCall(("ZADD", keys.index, *names))] if names else []

    def _name_again(self, entries: Entries) -> None:
        """Something was refused, and it may have been a name for the index."""
        for _, write in entries:
            if (buffer := self._buffers.get(write.id)) is not None:
                buffer.indexed = False

    def _next(self, keys: Keys, write: StreamWrite) -> StreamAppend:
        buffer = self._buffers.get(write.id)
        assert buffer is not None
        if not buffer.begun and buffer.switched:
            telemetry.redis_switches.add(1, {"to": "redis"})
        last, chunk = write.events[-1].sequence, scripts.encode(write.events)
        most = self._client.target.told
        told = scripts.message_of(last, chunk, most)
        made = StreamAppend(
            keys.of(write.id),
            keys.channel(write.id),
            write.epoch,
            write.events[0].sequence,
            last,
            chunk,
            begins=not buffer.begun,
            drop=max(0, buffer.flushed - _KEPT),
            message=keys.seal.seal(told, write.id, most),
        )
        buffer.begun = buffer.resident = True
        return made

    async def _answered(
        self, entry: tuple[int, StreamWrite], reply: Any, outcomes: dict[int, Outcome]
    ) -> bool:
        n, write = entry
        buffer = self._buffers.get(write.id)
        if buffer is None or reply not in (scripts.DONE, scripts.FENCED):
            return False
        if reply == scripts.DONE:
            self._buffers.acknowledge(buffer, write.events)
            outcomes[n] = Outcome.COMMITTED
            return True
        # Somebody takes it over, and may not have got far: what was acknowledged is kept.
        with contextlib.suppress(StoreError):
            async with self._flusher.lock:
                await self._flusher.only(buffer)
        self._buffers.drop(buffer)
        outcomes[n] = Outcome.FENCED
        return True

    async def _back_to_sql(
        self, keys: Keys, entries: Entries, outcomes: dict[int, Outcome]
    ) -> None:
        for _, write in entries:
            buffer = self._buffers.get(write.id)
            if buffer is not None:
                buffer.switched = True
                telemetry.redis_switches.add(1, {"to": "sql"})
        await self._in_sql(keys, entries, outcomes)

    # SQL.

    async def _in_sql(self, keys: Keys, entries: Entries, outcomes: dict[int, Outcome]) -> None:
        ready: list[tuple[int, StreamWrite]] = []
        for n, write in entries:
            if write.takes_over is None or await self._may_take(keys, write):
                ready.append((n, write))
            else:
                outcomes[n] = Outcome.FENCED
        if not ready:
            return
        async with self._flusher.lock:
            whole = [await self._prepared(keys, write) for _, write in ready]
            results = await self._inner.append(whole)
            for (n, write), sent, result in zip(ready, whole, results, strict=True):
                if result is not Outcome.COMMITTED and sent is not write:
                    result = await self._apart(write)  # noqa: PLW2901
                outcomes[n] = result
                self._note(keys, write, result)

    async def _may_take(self, keys: Keys, write: StreamWrite) -> bool:
        buffer = self._buffers.get(write.id)
        if buffer is None or buffer.epoch != write.takes_over:
            # Somebody else has written it since ours was begun.
            return await self._recovery.take(keys, write)
        # Ours: what counts is what has been claimed here, not what Redis was given.
        async with self._flusher.lock:
            await self._flusher.only(buffer)
        try:
            return await self._recovery.fence(keys, write)
        except RedisAwayError:
            return True

    async def _prepared(self, keys: Keys, write: StreamWrite) -> StreamWrite:
        """An entry with all that SQL lacks before it."""
        buffer = self._buffers.get(write.id)
        if write.takes_over is not None or write.create is not None:
            return write
        if buffer is None:
            with contextlib.suppress(RedisAwayError):
                await self._recovery.drain(keys, write.id)
            return write
        self._buffers.disown(buffer)
        if not buffer.backlog or write.epoch != buffer.epoch:
            return write
        if write.events and not buffer.follows(write):
            await self._flusher.only(buffer)
            return write
        return dataclasses.replace(write, events=(*buffer.backlog, *write.events))

    async def _apart(self, write: StreamWrite) -> Outcome:
        """SQL refuses the entry with what came before it: which of the two?"""
        buffer = self._buffers.get(write.id)
        if buffer is not None:
            await self._flusher.only(buffer)
        (outcome,) = await self._inner.append([write])
        return outcome

    def _note(self, keys: Keys, write: StreamWrite, result: Outcome) -> None:
        buffer = self._buffers.get(write.id)
        if result is not Outcome.COMMITTED:
            ours = buffer is not None and write.takes_over is None and write.epoch == buffer.epoch
            if buffer is not None and ours and result is Outcome.FENCED:
                self._buffers.drop(buffer)
            return
        calls = [ScriptCall(self._wakeups.statement(write.id))]
        if write.takes_over is not None:
            calls.insert(0, scripts.BURY(keys.of(write.id), write.epoch, scripts.FENCE_MS))
        elif write.ending is not None and buffer is not None and buffer.indexed:
            calls += scripts.ended(keys, write.id, write.epoch, self._inner.now())
        if buffer is not None and (write.ending is not None or write.takes_over is not None):
            self._buffers.drop(buffer)
        elif buffer is not None:
            self._buffers.flushed(
                buffer, write.events[-1].sequence if write.events else buffer.last
            )
            buffer.begun = False
        if write.ending is None and write.events and self._buffers.get(write.id) is None:
            # Begun here, taken over, or gone on with: the one writer of this epoch is ours.
            self._buffers.begin(write.id, write.epoch, write.events[-1].sequence)
        elif write.ending is None and write.create is not None:
            self._buffers.begin(write.id, write.epoch, 0)
        self._later(*calls)
