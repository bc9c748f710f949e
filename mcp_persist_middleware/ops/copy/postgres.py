"""The tables of a PostgreSQL database, through one connection of their own; events and streams go
in by COPY."""

import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from sqlalchemy import Table
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mcp_persist_middleware.errors import StoreError
from mcp_persist_middleware.ops.copy.rows import (
    Beside,
    Changes,
    EventKey,
    EventRow,
    Extent,
    Key,
    Row,
)
from mcp_persist_middleware.ops.copy.sql import SqlRows, events_of
from mcp_persist_middleware.stores.postgres import engine as postgres_engine
from mcp_persist_middleware.stores.postgres.log import PostgresLog
from mcp_persist_middleware.stores.sql.schema import Tables
from mcp_persist_middleware.stores.sql.text import escape, unescape

_SECONDS = 60.0
# A server that is busy takes its time for a chunk, and nobody is in the way of it meanwhile.
_PATIENT = "SET idle_in_transaction_session_timeout = '60s'"


def of(log: PostgresLog) -> "PostgresRows":
    """The tables of a log that is not open."""
    return PostgresRows(log.name, log.engine_of_its_own(_SECONDS), log.tables)


class PostgresRows(SqlRows):
    """`Writable` in PostgreSQL.

    Args:
        engine: its own; closed with it.
    """

    def __init__(self, name: str, engine: AsyncEngine, tables: Tables) -> None:
        super().__init__(name, tables)
        self._engine = engine
        self._connection: AsyncConnection | None = None
        self._driver: Any = None
        # First those, whatever the planner would rather walk through.
        open_ones = f"SELECT * FROM {self._stream} WHERE ended_at IS NULL OFFSET 0"
        self._open_streams = f"({open_ones}) AS open_streams"

    async def open(self) -> bool:
        if self._driver is None:
            async with postgres_engine.answering(self.name, _SECONDS):
                self._connection = await self._engine.connect()
                raw = await self._connection.get_raw_connection()
                self._driver = raw.driver_connection
                await self._driver.execute(_PATIENT)
        return await self._look()

    async def aclose(self) -> None:
        connection, self._connection, self._driver = self._connection, None, None
        if connection is not None:
            await postgres_engine.drop(connection)
        await self._engine.dispose()

    @contextlib.asynccontextmanager
    async def _answering(self) -> AsyncIterator[Any]:
        if self._driver is None:
            raise StoreError(url=self.name, reason="it is not open")
        async with postgres_engine.answering(self.name, _SECONDS):
            yield self._driver

    async def _fetch(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        async with self._answering() as driver:
            rows = await driver.fetch(sql, *self._given(values))
        return [tuple(row) for row in rows]

    def _rows(self, table: str, found: Sequence[Sequence[Any]]) -> list[Row]:
        plain = [[unescape(v) if isinstance(v, str) else v for v in row] for row in found]
        return super()._rows(table, plain)

    async def _names(self, table: Table) -> Sequence[str]:
        sql = (
            "SELECT attname FROM pg_attribute "
            "WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped"
        )
        return [name for (name,) in await self._fetch(sql, f'"{table.name}"')]

    async def now(self) -> float:
        ((now,),) = await self._fetch("SELECT extract(epoch FROM clock_timestamp())::float8")
        return float(now)

    async def _find_streams(self, ids: Sequence[bytes]) -> list[tuple[Any, ...]]:
        sql = f"SELECT {self._list('stream')} FROM {self._stream} WHERE id = ANY ($1::bytea[])"
        return await self._fetch(sql, list(ids))

    async def _find_rows(self, table: Beside, keys: Sequence[Key]) -> list[tuple[Any, ...]]:
        columns = [self._given(parts) for parts in zip(*keys, strict=True)]
        sql = f"SELECT {self._list(table.value)} FROM {self._named(table)} WHERE "
        if table is Beside.SESSION:
            arrays = "unnest($1::text[], $2::text[], $3::text[])"
            condition = f"({', '.join(table.key)}) IN (SELECT * FROM {arrays})"
        else:
            # One index, whatever the planner knows of the table.
            condition = f"id = ANY ($1::{'bytea' if table is Beside.JOB else 'text'}[])"
        return await self._fetch(sql + condition, *columns)

    async def events(
        self, after: EventKey, until: bytes, max_events: int, max_bytes: int
    ) -> Sequence[EventRow]:
        # Sizes are known without fetching what is stored out of line.
        sql = f"""
            SELECT stream, sequence, epoch, kind, codec, payload FROM (
                SELECT *, sum(octet_length(payload)) OVER w AS total, row_number() OVER w AS number
                FROM (
                    SELECT stream, sequence, epoch, kind, codec, payload FROM {self._event}
                    WHERE (stream, sequence) > ($1::bytea, $2::bigint) AND stream <= $3::bytea
                    ORDER BY stream, sequence LIMIT $4
                ) AS page WINDOW w AS (ORDER BY stream, sequence)
            ) AS sized
            WHERE total <= $5 OR number = 1 ORDER BY stream, sequence
        """
        return events_of(await self._fetch(sql, *after, until, max_events, max_bytes))

    async def extents(self, bounds: Mapping[bytes, int]) -> Mapping[bytes, Extent]:
        sql = f"""
            SELECT b.stream, max(e.sequence), count(e.sequence)
            FROM unnest($1::bytea[], $2::bigint[]) AS b (stream, last)
            LEFT JOIN {self._event} AS e ON e.stream = b.stream AND e.sequence <= b.last
            GROUP BY b.stream
        """
        found = await self._fetch(sql, list(bounds), list(bounds.values()))
        return {stream: Extent(last or 0, events) for stream, last, events in found}

    async def begin(self, old: bytes | None, new: bytes, secret: bytes) -> bool:
        async with self._answering() as driver, driver.transaction():
            # A server that opens the store meanwhile waits, and then sees the note.
            await driver.execute(
                "SELECT pg_advisory_xact_lock(hashtext($1))", self._tables.meta.name
            )
            if old is not None:
                return await self._noted(driver, (old, new))
            if not await self._noted(driver, None) or await driver.fetchval(self._anything()):
                return False
            for sql, value in zip(self._first(), (new, secret), strict=True):
                await driver.execute(sql, value)
        return True

    async def _noted(self, driver: Any, notes: tuple[bytes, bytes] | None) -> bool:
        if notes is None:
            return await driver.fetchval(self._note()) is None
        old, new = notes
        return await driver.fetchval(f"{self._swap()} RETURNING 1", new, old) is not None

    async def apply(self, changes: Changes, notes: tuple[bytes, bytes] | None) -> None:
        async with self._answering() as driver, driver.transaction():
            if not await self._noted(driver, notes):
                raise self.taken()
            for sql, values in self._steps(changes, replaces=notes is not None):
                if values:
                    await driver.executemany(sql, values)
            for table, columns, rows in self._inserts(changes):
                if rows:
                    await driver.copy_records_to_table(table, records=rows, columns=columns)

    def _given(self, values: Sequence[Any]) -> Sequence[Any]:
        return [_given(value) for value in values]


def _given(value: Any) -> Any:
    return escape(value) if isinstance(value, str) else value
