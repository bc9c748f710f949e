"""What the tables of SQLite and PostgreSQL have in common when they are copied: the statements,
with `$1` for a parameter."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import Table

from mcp_persist_middleware.errors import CopyError
from mcp_persist_middleware.log import mirror
from mcp_persist_middleware.model import WorkerState
from mcp_persist_middleware.ops.copy.rows import (
    EVERYTHING,
    Beside,
    Changes,
    EventRow,
    Key,
    Row,
    Selection,
    carried,
)
from mcp_persist_middleware.ops.copy.store import Writable
from mcp_persist_middleware.stores.sql.schema import Tables, quoted

Execution = tuple[str, Sequence[Sequence[Any]]]
"""A statement and the parameters of each time that it runs."""

# Every version has these tables.
_READ = ("meta", "stream", "event", "session", "worker")
_READ_IF_THERE = ("job", "journal")
# Said for the planner: the index holds no job without a key.
_OF_KEY = "namespace = $1 AND path = $2 AND key = $3 AND key <> ''"
EVENT_COLUMNS = ("stream", "sequence", "epoch", "kind", "codec", "payload")


class SqlRows(Writable):
    """The tables of one store through a connection of its own."""

    _open_streams: str
    """Stands in the place of the table of streams and has the open ones alone."""

    def __init__(self, name: str, tables: Tables) -> None:
        self.name = name
        self._columns: dict[str, list[str]] = {}
        self._stream, self._event = quoted(tables.stream), quoted(tables.event)
        self._session, self._meta = quoted(tables.session), quoted(tables.meta)
        self._worker = quoted(tables.worker)
        self._tables = tables

    @abstractmethod
    async def _fetch(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """The rows of a short read."""

    @abstractmethod
    async def _names(self, table: Table) -> Sequence[str]:
        """The columns that a table has here; none where it is not there."""

    async def _look(self) -> bool:
        """See which of the columns are there: a store may be of an older version."""
        for name in (*_READ, *_READ_IF_THERE):
            table = getattr(self._tables, name)
            there = await self._names(table)
            self._columns[name] = [c.name for c in table.columns if c.name in there]
        return all(self._columns[name] for name in _READ)

    def _rows(self, table: str, found: Sequence[Sequence[Any]]) -> list[Row]:
        columns = self._columns[table]
        return [carried(dict(zip(columns, row, strict=True))) for row in found]

    def _list(self, table: str) -> str:
        # A request may be large: it is read where it is wanted.
        there = {"request": "request IS NOT NULL"} if table == "stream" else {}
        return ", ".join(there.get(name, name) for name in self._columns[table])

    async def meta(self) -> Mapping[str, bytes]:
        return dict(await self._fetch(f"SELECT name, value FROM {self._meta}"))

    async def count(self) -> int:
        ((count,),) = await self._fetch(f"SELECT count(*) FROM {self._stream}")
        return int(count)

    async def workers(self) -> Mapping[str, int]:
        sql = f"SELECT id, counter FROM {self._worker} WHERE state <> {WorkerState.DEAD:d}"
        return dict(await self._fetch(sql))

    async def streams(
        self,
        after: bytes,
        limit: int,
        *,
        is_open: bool = False,
        only: Selection = EVERYTHING,
    ) -> Sequence[Row]:
        table = self._open_streams if is_open else self._stream
        wanted = {"namespace": only.namespace, "session": only.session, "id": only.stream}
        conditions = ["ended_at IS NULL"] if is_open else []
        if only.session is not None:
            # Said for the planner: the index holds no stream without a session.
            conditions.append("session <> ''")
        where, values = _where(["id > $1", *conditions], (after, limit), wanted)
        sql = f"SELECT {self._list('stream')} FROM {table} {where} ORDER BY id LIMIT $2"
        return self._rows("stream", await self._fetch(sql, *values))

    async def request(self, stream: bytes) -> bytes | None:
        found = await self._fetch(f"SELECT request FROM {self._stream} WHERE id = $1", stream)
        return found[0][0] if found else None

    def kept(self) -> Sequence[Beside]:
        return [table for table in Beside if self._columns[table.value]]

    async def rows(
        self, table: Beside, after: Key | None, limit: int, only: Selection = EVERYTHING
    ) -> Sequence[Row]:
        if table not in self.kept():
            return []
        key, is_newest = ", ".join(table.key), table.newest_first
        marks = ", ".join(f"${n}" for n in range(2, 2 + len(table.key)))
        behind = [] if after is None else [f"({key}) {'<' if is_newest else '>'} ({marks})"]
        where, values = _where(behind, (limit, *(after or ())), only.of(table))
        order = f"ORDER BY {key} {'DESC' if is_newest else ''} LIMIT $1"
        sql = f"SELECT {self._list(table.value)} FROM {self._named(table)} {where}"
        return self._rows(table.value, await self._fetch(f"{sql} {order}", *values))

    async def find_streams(self, ids: Sequence[bytes]) -> Mapping[bytes, Row]:
        rows = self._rows("stream", await self._find_streams(ids)) if ids else []
        return {row["id"]: row for row in rows}

    async def find_rows(self, table: Beside, keys: Sequence[Key]) -> Mapping[Key, Row]:
        is_asked = bool(keys) and table in self.kept()
        rows = self._rows(table.value, await self._find_rows(table, keys)) if is_asked else []
        return {table.key_of(row): row for row in rows}

    async def has_key(self, job: Row) -> bool:
        names = ("namespace", "path", "key")
        sql = f"SELECT 1 FROM {self._named(Beside.JOB)} WHERE {_OF_KEY}"
        return bool(await self._fetch(sql, *[job[name] for name in names]))

    @abstractmethod
    async def _find_streams(self, ids: Sequence[bytes]) -> list[tuple[Any, ...]]:
        """The rows of these streams."""

    @abstractmethod
    async def _find_rows(self, table: Beside, keys: Sequence[Key]) -> list[tuple[Any, ...]]:
        """These rows of a table."""

    def _named(self, table: Beside) -> str:
        return quoted(getattr(self._tables, table.value))

    async def numbers(self, stream: bytes, until: int) -> Sequence[int]:
        sql = f"SELECT sequence FROM {self._event} WHERE stream = $1 AND sequence <= $2"
        return [number for (number,) in await self._fetch(sql, stream, until)]

    def _steps(self, changes: Changes, *, replaces: bool) -> Iterator[Execution]:
        """All but what is inserted; unless it replaces what is there, that stays."""
        gone = [(stream,) for stream in changes.gone_streams]
        yield f"DELETE FROM {self._event} WHERE stream = $1", gone
        yield f"DELETE FROM {self._stream} WHERE id = $1", gone
        for table in Beside:
            keys = [self._given(key) for each, key in changes.gone_rows if each is table]
            yield f"DELETE FROM {self._named(table)} WHERE {one(table)}", keys
        of_event = "stream = $1 AND sequence = $2"
        yield f"DELETE FROM {self._event} WHERE {of_event}", [*changes.gone_events]
        yield self._upsert("stream", ("id",), changes.streams, replaces=True)
        for table in Beside:
            rows = [row for each, row in changes.rows if each is table]
            if rows and replaces:
                yield from self._freed(table, rows)
            if rows:
                yield self._upsert(table.value, table.key, rows, replaces=replaces)

    def _freed(self, table: Beside, rows: Sequence[Row]) -> Iterator[Execution]:
        """What stands in the way of rows: the key of a job may be another's since."""
        if table is Beside.JOB:
            sql = f"DELETE FROM {self._named(table)} WHERE {_OF_KEY} AND id <> $4"
            names = ("namespace", "path", "key", "id")
            yield sql, [self._given([row[name] for name in names]) for row in rows]

    def _upsert(
        self, table: str, key: Sequence[str], rows: Sequence[Row], *, replaces: bool
    ) -> Execution:
        columns = self._written(table, rows)
        marks = ", ".join(f"${n}" for n in range(1, len(columns) + 1))
        others = ", ".join(f"{name} = excluded.{name}" for name in columns if name not in key)
        then = f"({', '.join(key)}) DO UPDATE SET {others}" if replaces else "DO NOTHING"
        sql = (
            f"INSERT INTO {quoted(getattr(self._tables, table))} ({', '.join(columns)}) "
            f"VALUES ({marks}) ON CONFLICT {then}"
        )
        return sql, [self._given([row[name] for name in columns]) for row in rows]

    def _written(self, table: str, rows: Sequence[Row]) -> list[str]:
        """The columns that rows of another store have here."""
        return [name for name in self._columns[table] if not rows or name in rows[0]]

    def _given(self, values: Sequence[Any]) -> Sequence[Any]:
        """Values as the driver takes them."""
        return values

    def _inserts(self, changes: Changes) -> Iterator[tuple[str, Sequence[str], Sequence[Any]]]:
        """Tables, with what is inserted into their columns."""
        rows = changes.new_streams
        columns = self._written("stream", rows)
        yield (
            self._tables.stream.name,
            columns,
            [self._given([row[name] for name in columns]) for row in rows],
        )
        yield self._tables.event.name, EVENT_COLUMNS, changes.events

    def _note(self) -> str:
        """Whether a note is there."""
        return f"SELECT 1 FROM {self._meta} WHERE name = '{mirror.NAME}'"

    def _swap(self) -> str:
        """Puts a note in the place of another one."""
        return f"UPDATE {self._meta} SET value = $1 WHERE name = '{mirror.NAME}' AND value = $2"

    def _first(self) -> Sequence[str]:
        """Put the first note into a store, and the secret of the other one."""
        return (
            f"INSERT INTO {self._meta} (name, value) VALUES ('{mirror.NAME}', $1)",
            f"UPDATE {self._meta} SET value = $1 WHERE name = 'secret'",
        )

    def _anything(self) -> str:
        """Whether anything is in a store, or anybody on it."""
        beside = [self._named(table) for table in self.kept()]
        tables = (self._stream, self._worker, *beside)
        return "SELECT " + " OR ".join(f"EXISTS (SELECT 1 FROM {table})" for table in tables)

    def taken(self) -> CopyError:
        """What is raised where the note is another one than it was."""
        return CopyError(
            reason=f"another copy, or a server, has taken the store {self.name} meanwhile; if a "
            "server is on it the move is done, otherwise run the copy again"
        )


def _where(
    conditions: Sequence[str], values: Sequence[Any], wanted: Mapping[str, Any]
) -> tuple[str, Sequence[Any]]:
    """Conditions with those that columns have a value, and the parameters of all."""
    given = {name: value for name, value in wanted.items() if value is not None}
    first = len(values) + 1
    all_ = [*conditions, *(f"{name} = ${n}" for n, name in enumerate(given, first))]
    return f"WHERE {' AND '.join(all_)}" if all_ else "", [*values, *given.values()]


def one(table: Beside) -> str:
    """The condition of one row, by its key."""
    return " AND ".join(f"{name} = ${n}" for n, name in enumerate(table.key, 1))


def events_of(found: Sequence[Sequence[Any]]) -> list[EventRow]:
    """Rows of the driver as they are copied."""
    return [tuple(row) for row in found]
