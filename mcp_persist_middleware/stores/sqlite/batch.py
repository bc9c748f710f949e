"""One batch of writes as it runs in the driver's thread, statement by statement."""

import sqlite3
from collections.abc import Sequence

from sqlalchemy import Table

from mcp_persist_middleware.model import EventKind, Outcome, StreamRecord, StreamState, StreamWrite
from mcp_persist_middleware.stores.sql.schema import Tables, quoted
from mcp_persist_middleware.stores.sql.workers import is_damaged

_COLUMNS = 6
_MAX_ROWS = 1024
# What a poisoned entry raises, as opposed to a store in trouble.
_POISON = (
    sqlite3.IntegrityError,
    sqlite3.DataError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
    OverflowError,
    ValueError,
)


class BatchStatements:
    """The SQL of the hot path, made once."""

    def __init__(self, tables: Tables) -> None:
        stream, event = quoted(tables.stream), quoted(tables.event)
        self._insert = (
            f"INSERT INTO {event} ({_names(tables.event)}) SELECT "
            + ", ".join(f"v.column{n}" for n in range(1, _COLUMNS + 1))
            + " FROM (VALUES {rows}) AS v"
            f" CROSS JOIN {stream} AS s ON s.id = v.column1 AND s.epoch = v.column3"
            f" AND s.state = {StreamState.OPEN:d}"
        )
        self.create = (
            f"INSERT INTO {stream} ({_names(tables.stream)})"
            f" VALUES ({', '.join('?' * len(tables.stream.c))})"
        )
        # A deleted session's stream (expires_at 0) keeps its early end.
        self.end = (
            f"UPDATE {stream} SET state = ?, last_sequence = ?, ended_at = ?,"
            " expires_at = min(coalesce(expires_at, ?), ?), request = NULL"
            f" WHERE id = ? AND epoch = ? AND state = {StreamState.OPEN:d}"
        )
        self.take_over = (
            f"UPDATE {stream} SET epoch = ?, worker = coalesce(?, worker)"
            " WHERE id = ? AND epoch = ?"
            f" AND state = {StreamState.OPEN:d}"
        )
        self.settle = f"UPDATE {stream} SET principal = ? WHERE id = ? AND epoch = ?"
        self.above = f"SELECT 1 FROM {event} WHERE stream = ? AND sequence > ? LIMIT 1"
        self.trim = (
            f"DELETE FROM {event} WHERE stream = ? AND sequence IN (SELECT sequence FROM {event}"
            f" WHERE stream = ? AND kind <= {EventKind.MESSAGE:d}"
            " ORDER BY kind, sequence LIMIT ?)"
        )
        self.fence = f"SELECT epoch, state, worker FROM {stream} WHERE id = ?"
        self.held = (
            f"SELECT count(*) FROM {event} WHERE stream = ? AND sequence BETWEEN ? AND ?"
            " AND epoch = ?"
        )
        self._by_size: dict[int, str] = {}

    def insert(self, rows: int) -> str:
        """The statement that inserts this many rows, a power of two; rows of NULLs fill it up
        (they join no stream), so that few statements serve every batch."""
        if rows not in self._by_size:
            row = "(" + ", ".join("?" * _COLUMNS) + ")"
            self._by_size[rows] = self._insert.format(rows=", ".join([row] * rows))
        return self._by_size[rows]


def _names(table: Table) -> str:
    return ", ".join(column.name for column in table.c)


class SqliteBatch:
    """Callable with the raw connection; returns an outcome for each entry.

    Its representation holds no payload: drivers log the functions they run.
    """

    def __init__(self, statements: BatchStatements, entries: Sequence[StreamWrite]) -> None:
        self._sql = statements
        self._entries = entries

    def __repr__(self) -> str:
        return f"<batch of {len(self._entries)} streams>"

    def __call__(self, connection: sqlite3.Connection) -> list[Outcome]:
        try:
            if not self._entries:
                connection.execute("BEGIN IMMEDIATE")
                connection.execute("ROLLBACK")
                return []
            if self._together(connection):
                return [Outcome.COMMITTED] * len(self._entries)
        except (*_POISON, sqlite3.DatabaseError) as error:
            if not _is_poison(error):
                raise
        finally:
            _rollback(connection)
        return [self._alone(connection, entry) for entry in self._entries]

    def _together(self, connection: sqlite3.Connection) -> bool:
        """The whole batch in one transaction; False when an entry is fenced."""
        if _is_plain(self._entries):
            # One statement is its own transaction; what it left out is looked at again.
            return _insert(connection, self._sql, self._entries)
        connection.execute("BEGIN IMMEDIATE")
        if all(_apply(connection, self._sql, self._entries)):
            connection.execute("COMMIT")
            return True
        return False

    def _alone(self, connection: sqlite3.Connection, entry: StreamWrite) -> Outcome:
        """One entry in a transaction of its own, when the batch as a whole was refused."""
        try:
            connection.execute("BEGIN IMMEDIATE")
            if self._is_there(connection, entry):
                return Outcome.COMMITTED
            if all(_apply(connection, self._sql, [entry])):
                connection.execute("COMMIT")
                return Outcome.COMMITTED
            return Outcome.FENCED
        except (*_POISON, sqlite3.DatabaseError) as error:
            if not _is_poison(error):
                raise
            return Outcome.REJECTED
        finally:
            _rollback(connection)

    def _is_there(self, connection: sqlite3.Connection, entry: StreamWrite) -> bool:
        fence = connection.execute(self._sql.fence, (entry.id,)).fetchone()
        if fence is None or fence[0] != entry.epoch:
            return False
        if entry.ending is not None and fence[1] != entry.ending.state:
            return False
        if not entry.events:
            # Of two who take over, the one whose name is there was first.
            mine = entry.worker is not None and fence[2] == entry.worker
            return mine or entry.create is not None or entry.ending is not None
        span = (entry.id, entry.events[0].sequence, entry.events[-1].sequence, entry.epoch)
        held: tuple[int] = connection.execute(self._sql.held, span).fetchone()
        return held[0] == len(entry.events)


def _is_poison(error: Exception) -> bool:
    """Whether it is one entry's own trouble: so is a damaged page, on which a stream ends."""
    return isinstance(error, _POISON) or is_damaged(error)


def _is_plain(entries: Sequence[StreamWrite]) -> bool:
    is_short = sum(len(entry.events) for entry in entries) <= _MAX_ROWS
    return is_short and all(entry.only_adds for entry in entries)


def _apply(
    connection: sqlite3.Connection, sql: BatchStatements, entries: Sequence[StreamWrite]
) -> list[bool]:
    """Execute entries in the open transaction; for each step, whether it took effect whole."""
    created = [_row(entry.create) for entry in entries if entry.create is not None]
    if created:
        connection.executemany(sql.create, created)
    done = [_take_over(connection, sql, each) for each in entries if each.takes_over is not None]
    if not all(done):
        return done
    done.append(_insert(connection, sql, entries))
    for entry in entries:
        if entry.principal is not None:
            settled = (entry.principal, entry.id, entry.epoch)
            done.append(connection.execute(sql.settle, settled).rowcount == 1)
        if entry.trim:
            connection.execute(sql.trim, (entry.id, entry.id, entry.trim))
        if (end := entry.ending) is not None:
            times = (end.ended_at, end.expires_at, end.expires_at)
            values = (end.state, end.last_sequence, *times, entry.id, entry.epoch)
            cursor = connection.execute(sql.end, values)
            done.append(cursor.rowcount == 1)
    return done


def _take_over(connection: sqlite3.Connection, sql: BatchStatements, entry: StreamWrite) -> bool:
    fence = (entry.epoch, entry.worker, entry.id, entry.takes_over)
    if connection.execute(sql.take_over, fence).rowcount != 1:
        return False
    # What the old writer committed in the meantime is not passed over.
    return connection.execute(sql.above, (entry.id, entry.known)).fetchone() is None


def _insert(
    connection: sqlite3.Connection, sql: BatchStatements, entries: Sequence[StreamWrite]
) -> bool:
    values: list[object] = []
    for entry in entries:
        for event in entry.events:
            sequence, epoch, kind, frame, codec = event
            values += (entry.id, sequence, epoch, int(kind), codec, frame)
    total, inserted = len(values) // _COLUMNS, 0
    for start in range(0, total, _MAX_ROWS):
        part = values[start * _COLUMNS : (start + _MAX_ROWS) * _COLUMNS]
        rows = 1 << (len(part) // _COLUMNS - 1).bit_length()
        part += [None] * (rows * _COLUMNS - len(part))
        inserted += connection.execute(sql.insert(rows), part).rowcount
    return inserted == total


def _row(record: StreamRecord) -> tuple[object, ...]:
    owner = record.owner
    return (
        record.id,
        record.kind.value,
        owner.namespace,
        owner.path,
        owner.session,
        owner.principal,
        record.epoch,
        int(record.state),
        record.last_sequence,
        record.worker,
        record.created_at,
        record.ended_at,
        record.expires_at,
        record.request_ids,
        record.trace,
        None,
        record.request,
    )


def _rollback(connection: sqlite3.Connection) -> None:
    if connection.in_transaction:
        connection.execute("ROLLBACK")
