"""The log with Redis in front of SQL: the fast path of open streams.

SQL is where everything ends. A stream begins and ends there, and there it is decided who may write
it; sessions, workers and retention are there alone; a relayed request between workers is in one of
the two (`inbox`). In between, the events of a stream are acknowledged by Redis, and a flush moves
them to SQL some 50 ms later. Until SQL has them the worker that wrote them keeps them in its memory
too. So whatever happens to Redis costs nothing while that worker lives, and whatever happens to the
worker costs nothing while Redis lives: another worker drains what it left (`recovery`).

The invariant that everything rests on: what Redis has of a stream is a run of consecutive events,
and SQL has all before that run. Where the run is not what its writer has left there (Redis was
flushed, restarted empty, failed over to a replica that was behind) the writer goes on in SQL, and
begins a new run when SQL has everything. A reader needs no record of that: where Redis cannot
continue exactly at its cursor, SQL can.
"""

import asyncio
import contextlib
from collections.abc import Collection, Coroutine, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from mcp_persist_middleware.log.base import Answers, EventLog, Purged, StoreFacts, Written
from mcp_persist_middleware.log.outer import OuterLog
from mcp_persist_middleware.log.parts import Inbox
from mcp_persist_middleware.model import Event, Outcome, StreamRecord, StreamWrite
from mcp_persist_middleware.stores.redis import scripts
from mcp_persist_middleware.stores.redis.append import Appender
from mcp_persist_middleware.stores.redis.client import RedisClient
from mcp_persist_middleware.stores.redis.deferred import DeferredCalls
from mcp_persist_middleware.stores.redis.epochs import Epochs
from mcp_persist_middleware.stores.redis.erase import Eraser
from mcp_persist_middleware.stores.redis.flush import Flusher
from mcp_persist_middleware.stores.redis.idle import IdleStreams
from mcp_persist_middleware.stores.redis.inbox import RedisInbox
from mcp_persist_middleware.stores.redis.read import RedisReads
from mcp_persist_middleware.stores.redis.recovery import KeyIndex, Recovery
from mcp_persist_middleware.stores.redis.rights import Rights
from mcp_persist_middleware.stores.redis.scripts import Keys, ScriptCall
from mcp_persist_middleware.stores.redis.url import Target
from mcp_persist_middleware.stores.redis.write_behind import WriteBehindBuffers, page
from mcp_persist_middleware.supervision import Supervisor, Tasks, end
from mcp_persist_middleware.wakeups.base import Wakeups
from mcp_persist_middleware.wakeups.redis import RedisWakeups

T = TypeVar("T")

# A Redis that takes longer than this, or than this share of the store's time-out, is away.
_SLOWEST, _SHARE = 1.0, 0.2


class RedisLog(OuterLog):
    """`EventLog` in front of another one.

    Args:
        inner: the SQL log; closed with this one.
    """

    def __init__(self, inner: EventLog, target: Target, *, prefix: str, timeout: float) -> None:
        super().__init__(inner)
        self._prefix = prefix
        self._timeout = timeout
        patience = min(_SLOWEST, timeout * _SHARE)
        rights = Rights(lambda: self._keys, prefix, target.username or "default")
        self._client = RedisClient(target, rights, timeout=patience)
        self._buffers = WriteBehindBuffers(self.name, timeout)
        self._later = DeferredCalls(self._client)
        self._idle = IdleStreams(self._buffers, self._client, lambda: self._keys, self._later)
        self._flusher = Flusher(inner, self._buffers, self._idle.settle)
        self._eraser = Eraser(self._client, self._buffers, self._flusher)
        self._recovery = Recovery(inner, self._client, timeout)
        self._index = KeyIndex(inner, self._client)
        self._wakeups = self._waking()
        self._running = Tasks("mcp-persist-redis")
        self._epochs = Epochs(inner, self._wakeups, self._running, timeout)
        self._reads = RedisReads(inner, self._client, self._wakeups, self._epochs)
        self._appender = Appender(
            inner,
            self._client,
            self._buffers,
            self._flusher,
            self._recovery,
            self._later,
            self._wakeups,
            timeout,
        )
        self._inbox = RedisInbox(
            inner.inbox, self._client, lambda: self._keys, self._later, self._wakeups
        )
        self._known: Keys | None = None
        self._secret = b""
        self._tasks: list[asyncio.Task[None]] = []

    def _waking(self) -> RedisWakeups:
        return RedisWakeups(
            self.inner.wakeups,
            self._client.pubsub,
            self._channel,
            lambda topic, message: self._keys.seal.open(message, topic),
            scripts.high_water_of,
            lambda command: self._later(ScriptCall(command)),
        )

    @property
    def name(self) -> str:
        return f"{self.inner.name} behind {self._client.name}"

    @property
    def durability(self) -> str:
        below = self.inner.durability
        return f"what Redis has counts as committed, and in the store {below}"

    @property
    def inbox(self) -> Inbox:
        return self._inbox

    @property
    def max_in_flight(self) -> int:
        # One to Redis, one to SQL.
        return 2

    @property
    def has_fast_path(self) -> bool:
        return self._client.is_up

    def takes_fast(self, stream: bytes, size: int) -> bool:
        return self._appender.takes_fast(stream, size)

    @property
    def shared(self) -> EventLog:
        # A stream that is taken over while its writer lives would lose what waits to be flushed.
        return self.inner

    @property
    def wakeups(self) -> Wakeups:
        return self._wakeups

    @property
    def _keys(self) -> Keys:
        secret = self.inner.secret
        if self._known is None or secret != self._secret:
            # Another store took the place of the one that was there: nothing of it is ours.
            self._buffers.clear()
            self._secret, self._known = secret, Keys(self._prefix, secret)
        return self._known

    def _channel(self, topic: bytes) -> str:
        return self._keys.channel(topic)

    async def open(self, worker: str) -> None:
        await self.inner.open(worker)
        try:
            await self._client.open()
        except BaseException:
            await self.aclose()
            raise
        self._wakeups.open()
        tasks = Supervisor()
        self._tasks = [
            tasks.keep(self._flusher.run, "mcp-persist-redis-flush"),
            tasks.keep(self._later.run, "mcp-persist-redis-send"),
        ]

    async def aclose(self) -> None:
        tasks, self._tasks = self._tasks, []
        # Each step, whatever another raises; the last one that is named here comes first.
        async with contextlib.AsyncExitStack() as left:
            left.push_async_callback(self.inner.aclose)
            left.callback(self._buffers.clear)
            left.push_async_callback(self._client.aclose)
            left.push_async_callback(self._wakeups.aclose)
            if tasks:
                left.push_async_callback(self._leave)
                left.push_async_callback(end, *tasks)
                await self._running.ended(self._timeout)

    async def _leave(self) -> None:
        """What Redis has goes to SQL before anybody can think that this worker is gone."""
        await self._flusher.finish(self._timeout)
        self._idle.settle_until(float("inf"))
        await self._later.send()

    async def check(self) -> None:
        self._client.look()
        await super().check()

    def facts(self) -> StoreFacts:
        backlog, is_up = self._buffers.events, self._client.is_up
        return replace(self.inner.facts(), redis_up=is_up, redis_backlog=backlog)

    async def append(self, batch: Sequence[StreamWrite]) -> list[Outcome]:
        if not batch or not self._tasks:
            return await self.inner.append(batch)
        return await self._whole(self._appender.append(self._keys, batch))

    def _whole(self, work: Coroutine[Any, Any, T]) -> asyncio.Future[T]:
        """Finish even when the caller is cancelled: a batch is whole or nothing."""
        return self._running.whole(work)

    async def read(self, stream: bytes, after: int, max_events: int, max_bytes: int) -> list[Event]:
        if self._buffers.get(stream) is not None:
            events = await self._read_ours(stream, after, max_events, max_bytes)
            # None: whoever took the stream over may have written more.
            return events or await self.inner.read(stream, after, max_events, max_bytes)
        return await self._reads.read(self._keys, stream, after, max_events, max_bytes)

    async def find(self, stream: bytes) -> StreamRecord | None:
        record = await self.inner.find(stream)
        self._epochs.note(stream, record)
        return record

    async def written(self, stream: bytes, after: int = 0) -> Written:
        below = await self.inner.written(stream, after)
        # What only Redis has, or this memory.
        above = await EventLog.written(self, stream, below.last)
        return Written(above.last, below.events + above.events, below.size + above.size)

    async def answers(self, stream: bytes, after: int = 0) -> Answers:
        below = await self.inner.answers(stream, after)
        above = await EventLog.answers(self, stream, below.last)
        return Answers(above.last, [*below.events, *above.events])

    async def _read_ours(
        self, stream: bytes, after: int, max_events: int, max_bytes: int
    ) -> list[Event]:
        """What we write is in this memory or in SQL, whatever becomes of Redis."""
        found: list[Event] = []
        while (buffer := self._buffers.get(stream)) is not None and after < buffer.flushed:
            flushed = buffer.flushed
            more = await self.inner.read(stream, after, max_events, max_bytes)
            # Where SQL has nothing more, retention took it.
            after = more[-1].sequence if more else flushed
            found += more
            if len(found) >= max_events or len(page(found, max_events, max_bytes)) < len(found):
                break
        else:
            if buffer is not None:
                found += buffer.page(after, max_events, max_bytes)
        return page(found, max_events, max_bytes)

    async def purge(self, now: float, max_events: int) -> Purged:
        purged = await self.inner.purge(now, max_events)
        if not purged.more:
            await self._index.clean(self._keys)
        return purged

    async def remove(
        self, streams: Collection[bytes], max_events: int, *, ended: bool = False
    ) -> Purged:
        # Of what has ended Redis has nothing.
        if not ended and self._tasks:
            await self._eraser.erase(self._keys, streams)
        return await self.inner.remove(streams, max_events, ended=ended)
