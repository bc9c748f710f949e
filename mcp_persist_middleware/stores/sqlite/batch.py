"""One batch of writes as it runs in the driver's thread, statement by statement."""

import sqlite3
from collections.abc import Sequence

from mcp_persist_middleware.model import Outcome, StreamWrite
from mcp_persist_middleware.stores.sql.batch import UNFIT, stream_row, trace_of
from mcp_persist_middleware.stores.sql.workers import is_damaged
from mcp_persist_middleware.stores.sqlite.statements import SqliteStatements

_COLUMNS = 6
_MAX_ROWS = 1024
# What a poisoned entry raises, as opposed to a store in trouble.
_POISON = (
    sqlite3.IntegrityError,
    sqlite3.DataError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
    *UNFIT,
)


class SqliteBatch:
    """Callable with the raw connection; returns an outcome for each entry.

    Its representation holds no payload: drivers log the functions they run.
    """

    def __init__(self, statements: SqliteStatements, entries: Sequence[StreamWrite]) -> None:
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
        trace = trace_of(entry)
        return trace is not None and (
            connection.execute(self._sql.there, trace._asdict()).fetchone() is not None
        )


def _is_poison(error: Exception) -> bool:
    """Whether it is one entry's own trouble: so is a damaged page, on which a stream ends."""
    return isinstance(error, _POISON) or is_damaged(error)


def _is_plain(entries: Sequence[StreamWrite]) -> bool:
    is_short = sum(len(entry.events) for entry in entries) <= _MAX_ROWS
    return is_short and all(entry.only_adds for entry in entries)


def _apply(
    connection: sqlite3.Connection, sql: SqliteStatements, entries: Sequence[StreamWrite]
) -> list[bool]:
    """Execute entries in the open transaction; for each step, whether it took effect whole."""
    created = [stream_row(entry.create) for entry in entries if entry.create is not None]
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
            connection.execute(sql.trim, {"stream": entry.id, "limit": entry.trim})
        if (end := entry.ending) is not None:
            times = (end.ended_at, end.expires_at, end.expires_at)
            values = (end.state, end.last_sequence, *times, entry.id, entry.epoch)
            cursor = connection.execute(sql.end, values)
            done.append(cursor.rowcount == 1)
    return done


def _take_over(connection: sqlite3.Connection, sql: SqliteStatements, entry: StreamWrite) -> bool:
    fence = (entry.epoch, entry.worker, entry.id, entry.takes_over)
    if connection.execute(sql.take_over, fence).rowcount != 1:
        return False
    # What the old writer committed in the meantime is not passed over.
    return connection.execute(sql.above, (entry.id, entry.known)).fetchone() is None


def _insert(
    connection: sqlite3.Connection, sql: SqliteStatements, entries: Sequence[StreamWrite]
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


def _rollback(connection: sqlite3.Connection) -> None:
    if connection.in_transaction:
        connection.execute("ROLLBACK")
