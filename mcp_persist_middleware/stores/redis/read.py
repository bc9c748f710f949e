"""Reading streams that another worker writes: what came with a wake-up, the newest events in
Redis, else in SQL."""

import asyncio
import struct

from mcp_persist_middleware.log.base import EventLog
from mcp_persist_middleware.model import Event
from mcp_persist_middleware.stores.redis import scripts
from mcp_persist_middleware.stores.redis.client import RedisClient
from mcp_persist_middleware.stores.redis.epochs import Epochs
from mcp_persist_middleware.stores.redis.errors import RedisAwayError
from mcp_persist_middleware.stores.redis.recovery import checked
from mcp_persist_middleware.stores.redis.scripts import Keys, ScriptCall
from mcp_persist_middleware.stores.redis.write_behind import page
from mcp_persist_middleware.wakeups.redis import RedisWakeups

# A chunk may have a MiB. What many fetch at once takes long, and a Redis that takes long is away.
_CHUNKS, _AT_ONCE = 8, 4


class RedisReads:
    """Events move from Redis to SQL and never back, so whoever looks there in this order misses
    none. SQL decides what counts: of a stream that has ended, or is in another epoch, everything
    is in SQL, and what an old Redis still has of it is not looked at.
    """

    def __init__(
        self, inner: EventLog, client: RedisClient, wakeups: RedisWakeups, epochs: Epochs
    ) -> None:
        self._inner = inner
        self._client = client
        self._heard = wakeups.heard
        self._epochs = epochs
        self._turns = asyncio.Semaphore(_AT_ONCE)

    async def read(
        self, keys: Keys, stream: bytes, after: int, max_events: int, max_bytes: int
    ) -> list[Event]:
        """See `EventLog.read`."""
        found: list[Event] = []
        while len(found) < max_events and len(page(found, max_events, max_bytes)) == len(found):
            newest, more = await self._newest(keys, stream, after)
            if not (newest and newest[0].sequence == after + 1):
                older = await self._inner.read(stream, after, max_events, max_bytes)
                found += older
                after = older[-1].sequence if older else after
                newest = [event for event in newest if event.sequence > after]
                if older and newest and newest[0].sequence != after + 1:
                    continue
            # Where SQL has nothing between, retention took it.
            found += newest
            after = newest[-1].sequence if newest else after
            if not more:
                break
        return page(found, max_events, max_bytes)

    async def _newest(self, keys: Keys, stream: bytes, after: int) -> tuple[list[Event], bool]:
        """What Redis has of an open stream after a number, and whether that is not all."""
        if not self._client.is_up or not (epoch := await self._epochs.of(stream)):
            return [], False
        try:
            told, more = self._told(stream, epoch, after)
        except (ValueError, IndexError, struct.error):
            # Nobody of ours has sent that.
            self._heard.forget(stream)
            told, more = [], False
        if told:
            return told, more
        _, key = keys.of(stream)
        query = ("XRANGE", key, str(after + 1), "+", "COUNT", _CHUNKS)
        try:
            async with self._turns:
                (entries,) = await self._client.alone([ScriptCall(query)])
            chunks = [scripts.decode(entry, fields[b"c"]) for entry, fields in checked(entries)]
        except RedisAwayError:
            return [], False
        events = [e for chunk in chunks for e in chunk if e.epoch == epoch and e.sequence > after]
        return events, bool(events) and len(chunks) == _CHUNKS

    def _told(self, stream: bytes, epoch: int, after: int) -> tuple[list[Event], bool]:
        """The next events after a number, as far as they came with wake-ups, which were sent when
        they were written; and whether some came behind one that did not."""
        found: list[Event] = []
        past, more = 0, False
        for message in self._heard.of(stream):
            entry, chunk = scripts.chunk_of(message)
            if int(entry) <= after:
                past += 1
                continue
            events = [
                event
                for event in scripts.decode(entry, chunk)
                if event.epoch == epoch and event.sequence > after
            ]
            if not events or events[0].sequence != after + 1:
                more = True
                break
            found += events
            after = events[-1].sequence
        self._heard.drop_first(stream, past)
        return found, more
