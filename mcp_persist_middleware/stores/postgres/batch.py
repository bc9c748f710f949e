"""One batch of writes in PostgreSQL: one statement where nothing is in its way, on one connection.

A statement sees the rows that were committed when it began. So it locks the rows of its streams:
a lock that had to wait for somebody's takeover looks at the row again, and one that is held lets
a takeover wait for what is written here.
"""

from collections.abc import Iterable, Sequence

import asyncpg
from asyncpg import Connection

from mcp_persist_middleware.model import Outcome, StreamWrite
from mcp_persist_middleware.stores.postgres.statements import PostgresStatements
from mcp_persist_middleware.stores.sql.batch import UNFIT, stream_row, trace_of
from mcp_persist_middleware.stores.sql.text import escape

# What a poisoned entry raises, as opposed to a store in trouble.
_POISON = (
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.DataError,
    asyncpg.ProgramLimitExceededError,
    *UNFIT,
)
_EVENT_COLUMNS = 6


class _FencedError(Exception):
    """Ends a transaction that another writer's hold has made pointless."""


class PostgresBatch:
    """Commits entries on a connection that nothing else uses meanwhile."""

    def __init__(self, statements: PostgresStatements, connection: Connection) -> None:
        self._sql = statements
        self._connection = connection
        self._outcomes: dict[int, Outcome] = {}

    async def __call__(self, entries: Sequence[StreamWrite]) -> list[Outcome]:
        """An outcome for each entry."""
        if not entries:
            await self._connection.execute(self._sql.ping)
        numbered = list(enumerate(entries))
        await self._settle([each for each in numbered if not _needs_steps(each[1])])
        for number, entry in numbered:
            if _needs_steps(entry):
                self._outcomes[number] = await self._alone(entry)
        return [self._outcomes[number] for number, _ in numbered]

    async def _settle(self, entries: Sequence[tuple[int, StreamWrite]]) -> None:
        """All at once; what is in the way of that is looked for by halves."""
        if not entries:
            return
        try:
            written = await self._together([entry for _, entry in entries])
        except _POISON:
            written = await self._there([entry for _, entry in entries])
            rest = self._note(entries, written)
            if len(rest) == 1:
                self._outcomes[rest[0][0]] = await self._alone(rest[0][1])
            elif len(rest) < len(entries):
                await self._settle(rest)
            else:
                middle = len(rest) // 2
                await self._settle(rest[:middle])
                await self._settle(rest[middle:])
            return
        fenced = self._note(entries, written)
        there = await self._there([entry for _, entry in fenced]) if fenced else set()
        for number, _ in self._note(fenced, there):
            self._outcomes[number] = Outcome.FENCED

    def _note(
        self, entries: Sequence[tuple[int, StreamWrite]], written: set[bytes]
    ) -> list[tuple[int, StreamWrite]]:
        """Note what is committed; the rest."""
        for number, entry in entries:
            if entry.id in written:
                self._outcomes[number] = Outcome.COMMITTED
        return [each for each in entries if each[1].id not in written]

    async def _together(self, entries: Sequence[StreamWrite]) -> set[bytes]:
        """Entries in one statement; the streams of those that were written, whole."""
        old = [entry for entry in entries if entry.create is None]
        fences = [[entry.id for entry in old], [entry.epoch for entry in old]]
        values = [*_events(entries), *fences]
        sql = self._sql.add
        if len(old) < len(entries) or any(entry.ending for entry in old):
            sql = self._sql.write
            values += [*_endings(old), *_creations(entries)]
        return {row[0] for row in await self._connection.fetch(sql, *values)}

    async def _there(self, entries: Sequence[StreamWrite]) -> set[bytes]:
        """The streams of those entries that are in the store already: this is a retry of a call
        whose answer was lost."""
        traces = [_escaped(trace) for entry in entries if (trace := trace_of(entry)) is not None]
        try:
            rows = await self._connection.fetch(self._sql.there, *_columns(traces, 7))
        except _POISON:
            if len(entries) == 1:
                return set()
            middle = len(entries) // 2
            return await self._there(entries[:middle]) | await self._there(entries[middle:])
        return {row[0] for row in rows}

    async def _alone(self, entry: StreamWrite) -> Outcome:
        """One entry, step by step in a transaction of its own."""
        try:
            async with self._connection.transaction():
                await self._apply(entry)
        except _FencedError:
            return Outcome.COMMITTED if await self._there([entry]) else Outcome.FENCED
        except _POISON:
            return Outcome.COMMITTED if await self._there([entry]) else Outcome.REJECTED
        return Outcome.COMMITTED

    async def _apply(self, entry: StreamWrite) -> None:
        run = self._connection.fetchrow
        rest = entry
        if entry.takes_over is not None:
            if entry.create is not None:
                await self._together([StreamWrite(entry.id, entry.epoch, create=entry.create)])
            worker = None if entry.worker is None else escape(entry.worker)
            fence = (entry.id, entry.epoch, entry.takes_over, worker)
            moved = await run(self._sql.take_over, *fence)
            # The lock is held now, and this statement sees what the old writer committed before.
            if moved is None or await run(self._sql.above, entry.id, entry.known):
                raise _FencedError
            rest = StreamWrite(entry.id, entry.epoch, events=entry.events, ending=entry.ending)
        if not await self._together([rest]):
            raise _FencedError
        if entry.principal is not None:
            settled = (escape(entry.principal), entry.id, entry.epoch)
            await self._connection.execute(self._sql.settle, *settled)
        if entry.trim:
            await self._connection.execute(self._sql.trim, entry.id, entry.trim)


def _needs_steps(entry: StreamWrite) -> bool:
    return entry.takes_over is not None or entry.trim > 0 or entry.principal is not None


def _columns(rows: Sequence[tuple[object, ...]], width: int) -> list[Iterable[object]]:
    return list(zip(*rows, strict=True)) if rows else [()] * width


def _events(entries: Sequence[StreamWrite]) -> list[Iterable[object]]:
    rows = [
        (entry.id, event.sequence, event.epoch, int(event.kind), event.codec, event.frame)
        for entry in entries
        for event in entry.events
    ]
    return _columns(rows, _EVENT_COLUMNS)


def _endings(entries: Sequence[StreamWrite]) -> list[Iterable[object]]:
    rows = [
        (entry.id, int(end.state), end.last_sequence, end.ended_at, end.expires_at)
        for entry in entries
        if (end := entry.ending) is not None
    ]
    return _columns(rows, 5)


def _creations(entries: Sequence[StreamWrite]) -> list[Iterable[object]]:
    """The rows of new streams; one that ends in the same batch is made as it ends."""
    rows = [
        _escaped(stream_row(entry.create, entry.ending))
        for entry in entries
        if entry.create is not None
    ]
    return _columns(rows, 17)


def _escaped(row: tuple[object, ...]) -> tuple[object, ...]:
    return tuple(escape(value) if isinstance(value, str) else value for value in row)
