"""One batch of writes in PostgreSQL: one statement where nothing is in its way, on one connection.

A statement sees the rows that were committed when it began. So it locks the rows of its streams:
a lock that had to wait for somebody's takeover looks at the row again, and one that is held lets
a takeover wait for what is written here.
"""

from collections.abc import Iterable, Sequence

import asyncpg
from asyncpg import Connection
from sqlalchemy import Table
from sqlalchemy.dialects import postgresql

from mcp_persist_middleware.model import EventKind, Outcome, StreamState, StreamWrite
from mcp_persist_middleware.stores.sql.schema import Tables, quoted
from mcp_persist_middleware.stores.sql.text import escape

# What a poisoned entry raises, as opposed to a store in trouble.
_POISON = (
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.DataError,
    asyncpg.ProgramLimitExceededError,
    OverflowError,
    ValueError,
)
_EVENT_COLUMNS = 6


class _FencedError(Exception):
    """Ends a transaction that another writer's hold has made pointless."""


class BatchStatements:
    """The SQL of the hot path, made once."""

    def __init__(self, tables: Tables) -> None:
        stream, event = quoted(tables.stream), quoted(tables.event)
        is_open = f"s.state = {StreamState.OPEN:d}"
        entry = "entry AS (SELECT * FROM unnest({0}::bytea[], {1}::int[]) AS e (id, epoch))"
        # In the order of the ids: whoever else locks several streams does it in that order too.
        held = (
            f"held AS MATERIALIZED (SELECT s.id FROM {stream} AS s"
            " JOIN entry AS e ON e.id = s.id AND e.epoch = s.epoch"
            f" WHERE s.id = ANY ({{0}}) AND {is_open} ORDER BY s.id FOR {{1}} OF s)"
        )
        insert = (
            f"INSERT INTO {event} ({_names(tables.event)})"
            f" SELECT v.* FROM unnest({_casts(tables.event, 1)}) AS v ({_names(tables.event)})"
            " JOIN {0} AS h ON h.id = v.stream"
        )
        ids, epochs = f"${_EVENT_COLUMNS + 1}", f"${_EVENT_COLUMNS + 2}"
        self.plain = (
            f"WITH {entry.format(ids, epochs)}, {held.format(ids, 'SHARE')},"
            f" inserted AS ({insert.format('held')}) SELECT id FROM held"
        )
        ends = _EVENT_COLUMNS + 3
        creates = ends + 5
        # A deleted session's stream (expires_at 0) keeps its early end.
        ended = (
            f"UPDATE {stream} AS s SET state = x.state, last_sequence = x.last_sequence,"
            " ended_at = x.ended_at,"
            " expires_at = least(coalesce(s.expires_at, x.expires_at), x.expires_at),"
            " request = NULL"
            f" FROM unnest(${ends}::bytea[], ${ends + 1}::smallint[], ${ends + 2}::bigint[],"
            f" ${ends + 3}::float8[], ${ends + 4}::float8[])"
            " AS x (id, state, last_sequence, ended_at, expires_at)"
            f" WHERE s.id = x.id AND s.id = ANY (${ends}) AND s.id IN (SELECT id FROM held)"
        )
        made = (
            f"INSERT INTO {stream} ({_names(tables.stream)})"
            f" SELECT * FROM unnest({_casts(tables.stream, creates)}) RETURNING id"
        )
        self.whole = (
            f"WITH {entry.format(ids, epochs)}, {held.format(ids, 'NO KEY UPDATE')},"
            f" made AS ({made}), ended AS ({ended}),"
            " written AS MATERIALIZED (SELECT id FROM held UNION ALL SELECT id FROM made),"
            f" inserted AS ({insert.format('written')}) SELECT id FROM written"
        )
        self.there = (
            "SELECT e.id FROM unnest($1::bytea[], $2::int[], $3::smallint[], $4::bigint[],"
            " $5::bigint[], $6::bigint[], $7::text[])"
            " AS e (id, epoch, state, first, last, count, worker)"
            f" JOIN {stream} AS s ON s.id = e.id AND s.epoch = e.epoch"
            " WHERE s.id = ANY ($1) AND (e.state IS NULL OR e.state = s.state)"
            # Of two who take over, the one whose name is there was first.
            " AND (e.worker IS NULL OR e.worker = s.worker) AND e.count ="
            f" (SELECT count(*) FROM {event} AS v WHERE v.stream = e.id"
            " AND v.sequence BETWEEN e.first AND e.last AND v.epoch = e.epoch)"
        )
        self.take_over = (
            f"UPDATE {stream} AS s SET epoch = $2, worker = coalesce($4, worker)"
            f" WHERE id = $1 AND epoch = $3 AND {is_open} RETURNING id"
        )
        self.settle = f"UPDATE {stream} SET principal = $1 WHERE id = $2 AND epoch = $3"
        self.above = f"SELECT 1 FROM {event} WHERE stream = $1 AND sequence > $2 LIMIT 1"
        # The noise at the stream's beginning is found without a look at the rest of the stream.
        oldest = f"SELECT sequence FROM {event} WHERE stream = $1 AND kind = {{0:d}}"
        self.trim = (
            f"WITH noise AS MATERIALIZED ({oldest.format(EventKind.NOISE)}"
            " ORDER BY sequence LIMIT $2)"
            f" DELETE FROM {event} WHERE stream = $1 AND sequence = ANY (ARRAY("
            f"SELECT sequence FROM noise UNION ALL ({oldest.format(EventKind.MESSAGE)}"
            " ORDER BY sequence LIMIT $2 - (SELECT count(*) FROM noise))))"
        )
        # A lock and no change: it needs a store that takes writes.
        self.ping = f"SELECT 1 FROM {quoted(tables.meta)} WHERE name = 'version' FOR KEY SHARE"


def _names(table: Table) -> str:
    return ", ".join(column.name for column in table.c)


def _casts(table: Table, first: int) -> str:
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    kinds = [column.type.compile(dialect) for column in table.c]
    return ", ".join(f"${n}::{kind}[]" for n, kind in enumerate(kinds, first))


class PostgresBatch:
    """Commits entries on a connection that nothing else uses meanwhile."""

    def __init__(self, statements: BatchStatements, connection: Connection) -> None:
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
        sql = self._sql.plain
        if len(old) < len(entries) or any(entry.ending for entry in old):
            sql = self._sql.whole
            values += [*_endings(old), *_creations(entries)]
        return {row[0] for row in await self._connection.fetch(sql, *values)}

    async def _there(self, entries: Sequence[StreamWrite]) -> set[bytes]:
        """The streams of those entries that are in the store already: this is a retry of a call
        whose answer was lost."""
        told = [e for e in entries if e.events or e.create or e.ending or e.worker is not None]
        spans = [
            (
                entry.id,
                entry.epoch,
                int(entry.ending.state) if entry.ending else None,
                entry.events[0].sequence if entry.events else 0,
                entry.events[-1].sequence if entry.events else -1,
                len(entry.events),
                None if entry.worker is None else escape(entry.worker),
            )
            for entry in told
        ]
        try:
            rows = await self._connection.fetch(self._sql.there, *_columns(spans, 7))
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
    rows = []
    for entry in entries:
        if (record := entry.create) is None:
            continue
        owner, end = record.owner, entry.ending or record
        rows.append(
            (
                record.id,
                record.kind.value,
                *map(escape, (owner.namespace, owner.path, owner.session, owner.principal)),
                record.epoch,
                int(end.state),
                end.last_sequence,
                escape(record.worker),
                record.created_at,
                end.ended_at,
                end.expires_at,
                escape(record.request_ids),
                escape(record.trace),
                None,
                None if entry.ending else record.request,
            )
        )
    return _columns(rows, 17)
