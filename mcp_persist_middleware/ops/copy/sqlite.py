"""The tables of a SQLite file, in one thread with one connection of its own: the server that may be
on the file has others, and waits for this one no longer than for another worker."""

import asyncio
import contextlib
import re
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Table

from mcp_persist_middleware.errors import StoreError
from mcp_persist_middleware.ops.copy.rows import (
    PAYLOAD,
    Beside,
    Changes,
    EventKey,
    EventRow,
    Extent,
    Key,
)
from mcp_persist_middleware.ops.copy.sql import SqlRows, one
from mcp_persist_middleware.stores.sql.schema import Tables
from mcp_persist_middleware.stores.sql.workers import trouble
from mcp_persist_middleware.stores.sqlite.workers import WorkerLocks

T = TypeVar("T")

_BUSY_SECONDS = 30.0
_NUMBERED = re.compile(r"\$(\d+)")


class SqliteRows(SqlRows):
    """`Writable` in a SQLite file."""

    def __init__(self, name: str, path: Path, tables: Tables, synchronous: str) -> None:
        super().__init__(name, tables)
        self._path = path
        self._synchronous = synchronous
        self._thread = ThreadPoolExecutor(1, "mcp-persist-copy")
        self._connection: sqlite3.Connection | None = None
        self._locks = WorkerLocks(path)
        index = f'"{tables.stream.name}_open"'
        self._open_streams = f"{self._stream} INDEXED BY {index}"

    async def open(self) -> bool:
        if not self._path.is_file():
            return False
        if self._connection is None:
            self._connection = await self._in_thread(self._connect)
        return await self._look()

    def _connect(self) -> sqlite3.Connection:
        uri = self._path.absolute().as_uri() + "?mode=rw"
        connection = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=_BUSY_SECONDS)
        connection.execute(f"PRAGMA synchronous = {self._synchronous}")
        connection.execute("PRAGMA secure_delete = ON")
        return connection

    async def aclose(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await self._in_thread(connection.close)
        self._thread.shutdown(wait=False)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except (sqlite3.Error, OSError) as error:
            raise trouble(self.name, error) from error

    @property
    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            raise StoreError(url=self.name, reason="it is not open")
        return self._connection

    def _run(self, sql: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        return self._open.execute(_named(sql), _by_name(values))

    async def _fetch(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        return await self._in_thread(lambda: self._run(sql, values).fetchall())

    async def _names(self, table: Table) -> Sequence[str]:
        found = await self._fetch("SELECT name FROM pragma_table_info($1)", table.name)
        return [name for (name,) in found]

    async def now(self) -> float:
        return time.time()

    async def workers(self) -> Mapping[str, int]:
        # Who is gone has let go of a lock, whatever the table says.
        found = await super().workers()
        return {name: counter for name, counter in found.items() if self._locks.is_held(name)}

    async def _find_streams(self, ids: Sequence[bytes]) -> list[tuple[Any, ...]]:
        marks = ", ".join(f"${number}" for number in range(1, len(ids) + 1))
        sql = f"SELECT {self._list('stream')} FROM {self._stream} WHERE id IN ({marks})"
        return await self._fetch(sql, *ids)

    async def _find_rows(self, table: Beside, keys: Sequence[Key]) -> list[tuple[Any, ...]]:
        sql = f"SELECT {self._list(table.value)} FROM {self._named(table)} WHERE {one(table)}"
        return await self._in_thread(lambda: self._each(sql, keys))

    def _each(self, sql: str, keys: Sequence[Sequence[Any]]) -> list[tuple[Any, ...]]:
        named = _named(sql)
        return [row for key in keys for row in self._open.execute(named, _by_name(key))]

    async def events(
        self, after: EventKey, until: bytes, max_events: int, max_bytes: int
    ) -> Sequence[EventRow]:
        sql = (
            f"SELECT stream, sequence, epoch, kind, codec, payload FROM {self._event} WHERE "
            "(stream, sequence) > ($1, $2) AND stream <= $3 ORDER BY stream, sequence LIMIT $4"
        )

        def page() -> list[EventRow]:
            # Row by row: what does not fit is not read.
            found: list[EventRow] = []
            size = 0
            with contextlib.closing(self._run(sql, (*after, until, max_events))) as rows:
                for row in rows:
                    size += len(row[PAYLOAD])
                    if found and size > max_bytes:
                        break
                    found.append(row)
            return found

        return await self._in_thread(page)

    async def extents(self, bounds: Mapping[bytes, int]) -> Mapping[bytes, Extent]:
        of_stream = "stream = $1 AND sequence <= $2"
        sql = f"SELECT max(sequence), count(*) FROM {self._event} WHERE {of_stream}"
        found = await self._in_thread(lambda: self._each(sql, list(bounds.items())))
        return {
            stream: Extent(last or 0, events)
            for stream, (last, events) in zip(bounds, found, strict=True)
        }

    async def begin(self, old: bytes | None, new: bytes, secret: bytes) -> bool:
        return await self._in_thread(lambda: self._begin(old, new, secret))

    def _begin(self, old: bytes | None, new: bytes, secret: bytes) -> bool:
        with self._transaction():
            if old is not None:
                return self._noted((old, new))
            if not self._noted(None) or self._run(self._anything()).fetchone()[0]:
                return False
            for sql, value in zip(self._first(), (new, secret), strict=True):
                self._run(sql, (value,))
        return True

    async def apply(self, changes: Changes, notes: tuple[bytes, bytes] | None) -> None:
        await self._in_thread(lambda: self._apply(changes, notes))

    def _apply(self, changes: Changes, notes: tuple[bytes, bytes] | None) -> None:
        with self._transaction():
            if not self._noted(notes):
                raise self.taken()
            for sql, values in self._steps(changes, replaces=notes is not None):
                self._open.executemany(_named(sql), map(_by_name, values))
            for table, columns, rows in self._inserts(changes):
                marks = ", ".join("?" * len(columns))
                names = ", ".join(columns)
                self._open.executemany(f'INSERT INTO "{table}" ({names}) VALUES ({marks})', rows)

    def _noted(self, notes: tuple[bytes, bytes] | None) -> bool:
        if notes is None:
            return self._run(self._note()).fetchone() is None
        old, new = notes
        return self._run(self._swap(), (new, old)).rowcount == 1

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._run("BEGIN IMMEDIATE")
        try:
            yield
            self._run("COMMIT")
        except BaseException:
            if self._open.in_transaction:
                self._run("ROLLBACK")
            raise


# Python 3.12.0 to 3.12.3 warn of numbered placeholders that are given their values by place.


def _named(sql: str) -> str:
    return _NUMBERED.sub(r":p\1", sql)


def _by_name(values: Sequence[Any]) -> dict[str, Any]:
    return {f"p{number}": value for number, value in enumerate(values, 1)}
