"""A stream of another worker: fenced in Redis, and what SQL lacks of it drained into SQL."""

import time
from typing import Any

from mcp_persist_middleware import telemetry
from mcp_persist_middleware.log.base import EventLog
from mcp_persist_middleware.model import Event, Outcome, StreamWrite
from mcp_persist_middleware.stores.redis import scripts
from mcp_persist_middleware.stores.redis.client import RedisClient
from mcp_persist_middleware.stores.redis.errors import RedisAwayError
from mcp_persist_middleware.stores.redis.scripts import Keys, ScriptCall

_CHUNKS = 32
_READ = (1024, 16 * 1024 * 1024)
_ATTEMPTS = 5


class Recovery:
    """What a dead worker's streams need before they can be ended in SQL."""

    def __init__(self, inner: EventLog, client: RedisClient, patience: float) -> None:
        self._inner = inner
        self._client = client
        self._patience = patience

    async def take(self, keys: Keys, write: StreamWrite) -> bool:
        """Make a takeover safe: nobody appends in Redis any more, SQL has what Redis had, and
        that is nothing above what the entry was made for. False when it is not so.

        A Redis that is away is waited for, until it has been away for `patience` seconds: it may
        hold acknowledged events. After that the stream goes on without them.
        """
        until = time.monotonic() + self._patience
        while await self._client.back(self._client.away_since + self._patience):
            try:
                if not await self.fence(keys, write):
                    return False
                return await self.drain(keys, write.id) <= write.known
            except RedisAwayError:
                # It has gone just now, and may be back soon.
                if time.monotonic() >= until:
                    break
        return True

    async def fence(self, keys: Keys, write: StreamWrite) -> bool:
        """See that nobody of an earlier epoch appends in Redis any more; False when somebody of
        a later one does.

        Raises:
            RedisAwayError: it cannot be asked.
        """
        key, _ = keys.of(write.id)
        (reply,) = await self._client.run([scripts.FENCE([key], write.epoch)])
        if isinstance(reply, Exception):
            raise RedisAwayError(str(reply)) from reply
        return bool(reply != scripts.FENCED)

    async def drain(self, keys: Keys, stream: bytes) -> int:
        """Bring into SQL what only Redis has of a stream; the last number that Redis has.

        Raises:
            RedisAwayError: it cannot be asked.
            StoreError: SQL does not do it.
        """
        events = await self._in_redis(keys, stream)
        if not events:
            return 0
        for _ in range(_ATTEMPTS):
            last = events[0].sequence - 1
            while page := await self._inner.read(stream, last, *_READ):
                last = page[-1].sequence
            missing = tuple(event for event in events if event.sequence > last)
            if not missing:
                break
            write = StreamWrite(stream, missing[0].epoch, events=missing)
            (outcome,) = await self._inner.append([write])
            if outcome is not Outcome.REJECTED:
                telemetry.redis_drained.add(len(missing) if outcome is Outcome.COMMITTED else 0)
                break
            # Its writer, or somebody else who drains it, was here in between.
        return events[-1].sequence

    async def _in_redis(self, keys: Keys, stream: bytes) -> list[Event]:
        _, key = keys.of(stream)
        events: list[Event] = []
        start = "-"
        while True:
            (entries,) = await self._client.alone(
                [ScriptCall(("XRANGE", key, start, "+", "COUNT", _CHUNKS))]
            )
            for entry, fields in checked(entries):
                events += scripts.decode(entry, fields[b"c"])
            if len(entries) < _CHUNKS:
                return events
            start = b"(" + entries[-1][0]


def checked(entries: Any) -> list[tuple[bytes, dict[bytes, bytes]]]:
    """The entries of an XRANGE.

    Raises:
        RedisAwayError: the server has refused it.
    """
    if isinstance(entries, Exception):
        raise RedisAwayError(str(entries))
    found: list[tuple[bytes, dict[bytes, bytes]]] = entries
    return found


class KeyIndex:
    """The streams that have keys in Redis: what was left behind is found and removed."""

    _AGE, _PAGE = 600.0, 100

    def __init__(self, inner: EventLog, client: RedisClient) -> None:
        self._inner = inner
        self._client = client

    async def clean(self, keys: Keys) -> None:
        """Remove the keys of streams that have ended without us, or are gone."""
        try:
            while await self._step(keys):
                pass
        except RedisAwayError:
            return

    async def _step(self, keys: Keys) -> bool:
        until = self._inner.now() - self._AGE
        query = ("ZRANGEBYSCORE", keys.index, 0, until, "LIMIT", 0, self._PAGE)
        (names,) = await self._client.run([ScriptCall(query)])
        if isinstance(names, Exception) or not names:
            return False
        calls = []
        for name in names:
            record = await self._inner.find(name)
            if record is not None and record.ended_at is None:
                calls.append(ScriptCall(("ZADD", keys.index, "XX", self._inner.now(), name)))
            else:
                epoch = record.epoch if record is not None else scripts.NEVER
                calls += scripts.ended(keys, name, epoch, until)
        replies = await self._client.run(calls)
        # What was refused would be found again at once.
        done = not any(isinstance(reply, Exception) for reply in replies)
        return done and len(names) == self._PAGE
