"""The reads that every look of a reader needs, and retention, as the driver runs them: one way to
the server and back for a page."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import asyncpg

from mcp_persist_middleware.log.base import Purged, Removed
from mcp_persist_middleware.stores.postgres.statements import PostgresStatements
from mcp_persist_middleware.stores.sql.rows import RowPage, named, note_damage, page_of
from mcp_persist_middleware.stores.sql.text import unescape

_DAMAGE = (asyncpg.DataCorruptedError, asyncpg.IndexCorruptedError)
# How many streams a step of retention takes: more where they are short.
_LEAST_STREAMS = 50
# Steps go on where the last one was, and begin again so often (seconds) and at the end: for the
# streams of a session deleted since, and for those that were locked.
_AGAIN = 5.0
# How many events a stream has is a guess, and how many have expired; whatever it is, each is found,
# none is looked for, and nothing is sorted.
_BY_INDEX = (
    "SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off;"
    " SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off"
)


class PostgresReads:
    """Runs the statements on the driver's connection."""

    def __init__(self, statements: PostgresStatements) -> None:
        self._sql = statements
        self._streams, self._from, self._began = _LEAST_STREAMS, 0.0, 0.0

    async def row(self, driver: Any, stream: bytes) -> Any | None:
        """The row of a stream, its columns as attributes."""
        row = await driver.fetchrow(self._sql.find_stream, stream)
        return None if row is None else plain(row)

    async def page(
        self, driver: Any, stream: bytes, after: int, max_events: int, max_bytes: int
    ) -> RowPage:
        """The events after a number: as many as fit, at least one if there is one."""
        found = await driver.fetch(self._sql.page, stream, after, max_events, max_bytes)
        return page_of(tuple(row) for row in found)

    async def purge(self, driver: Any, now: float, ended: float, max_events: int) -> Purged:
        """One step of retention; of a session that was deleted what had `ended` by then. Who purges
        beside us takes other streams; who still writes to one of these waits, and then finds no
        stream."""
        try:
            return await self._purge(driver, now, ended, max_events)
        except _DAMAGE:
            found = await driver.fetch(self._sql.expired, now, _LEAST_STREAMS, 0.0, ended)
            return await self._remove_singly(driver, found, max_events)

    async def remove(self, driver: Any, streams: Sequence[bytes], max_events: int) -> Purged:
        """The same for these streams, of those that nobody may read any more."""
        try:
            async with driver.transaction():
                await driver.execute(_BY_INDEX)
                found = await driver.fetch(self._sql.unreadable, streams)
                names = {row[0]: unescape(row[1]) for row in found}
                gone, buried = await self._emptied(driver, list(names), max_events)
        except _DAMAGE:
            found = await driver.fetch(self._sql.unreadable, streams)
            return await self._remove_singly(driver, found, max_events)
        return Purged.of(_parts(names, gone, buried), more=len(buried) < len(names))

    async def _emptied(self, driver: Any, streams: list[bytes], max_events: int) -> tuple[Any, Any]:
        # Each statement sees what was committed before the streams were locked.
        gone = await driver.fetch(self._sql.forget, streams, max_events)
        return gone, await driver.fetch(self._sql.remove_streams, streams)

    async def _remove_singly(self, driver: Any, found: Sequence[Any], max_events: int) -> Purged:
        """Remove streams one by one, and of one whose events are damaged its row alone: nobody
        finds them any more, and they keep nothing else from being removed."""
        parts: list[tuple[str, Removed]] = []
        for stream, name, _ in found:
            namespace = unescape(name)
            try:
                async with driver.transaction():
                    gone = await driver.fetch(self._sql.forget, [stream], max_events)
                    buried = await driver.fetch(self._sql.remove_streams, [stream])
            except _DAMAGE:
                await driver.execute(self._sql.abandon, stream)
                note_damage("events of a stream that has expired")
                gone, buried = [], [stream]
            parts += [(namespace, Removed(0, count)) for _, count in gone]
            parts += [(namespace, Removed(1, 0)) for _ in buried]
        return Purged.of(parts, more=bool(parts))

    async def _purge(self, driver: Any, now: float, ended: float, max_events: int) -> Purged:
        limit = min(self._streams, max(max_events, _LEAST_STREAMS))
        started = time.monotonic()
        floor = self._from if started < self._began + _AGAIN else 0.0
        async with driver.transaction():
            await driver.execute(_BY_INDEX)
            found = await driver.fetch(self._sql.expired, now, limit, floor, ended)
            names = {row[0]: unescape(row[1]) for row in found}
            gone, buried = await self._emptied(driver, list(names), max_events)
        full = sum(count for _, count in gone) >= max_events
        more = full or len(names) == limit
        if more:
            self._streams = max(_LEAST_STREAMS, 2 * (len(buried) if full else limit))
        if floor == 0.0:
            self._began = started
        # While a long transaction is open the index keeps what is gone: not every step passes it.
        self._from = found[0][2] if more else 0.0
        return Purged.of(_parts(names, gone, buried), more=more or floor > 0.0)


def _parts(names: Mapping[bytes, str], gone: Any, buried: Any) -> list[tuple[str, Removed]]:
    """What went of streams with these namespaces."""
    parts = [(names[stream], Removed(0, count)) for stream, count in gone]
    return parts + [(names[stream], Removed(1, 0)) for (stream,) in buried]


def plain(row: Any) -> Any:
    """A row of the driver as it was written, its columns as attributes."""
    return named(row.keys(), (unescape(v) if isinstance(v, str) else v for v in row.values()))
