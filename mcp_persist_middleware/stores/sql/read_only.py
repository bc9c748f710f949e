"""A connection of an operator's own that can only read: nothing is enrolled, made, upgraded or
locked, and a statement that takes too long is ended."""

import asyncio
import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import fields
from typing import Any, Self

from sqlalchemy import inspect, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mcp_persist_middleware.errors import StoreError
from mcp_persist_middleware.stores.sql import migrations
from mcp_persist_middleware.stores.sql.migrations import Schema
from mcp_persist_middleware.stores.sql.rows import reading
from mcp_persist_middleware.stores.sql.schema import Tables
from mcp_persist_middleware.stores.sql.workers import answering

PATIENCE = 30.0
"""Of a statement (seconds): a count of a large table takes its time."""


class ReadOnly(ABC):
    """The tables of one store. Use it as an async context manager.

    Every method raises `StoreError` when the store does not answer.
    """

    def __init__(self, name: str, tables: Tables, timeout: float) -> None:
        self.name = name
        self.tables = tables
        self._timeout = timeout
        self._engine: AsyncEngine | None = None
        self._connection: AsyncConnection | None = None

    @abstractmethod
    def _make_engine(self) -> AsyncEngine:
        """An engine whose connections can only read."""

    @abstractmethod
    def _unavailable(self, error: Exception) -> StoreError:
        """What is said when it cannot be opened."""

    async def __aenter__(self) -> Self:
        try:
            async with answering(self._timeout, self.name):
                self._engine = self._make_engine()
                self._connection = await self._engine.connect()
        except (StoreError, OSError) as error:
            await self.__aexit__()
            raise self._unavailable(error) from error
        return self

    async def __aexit__(self, *_: object) -> None:
        connection, self._connection = self._connection, None
        engine, self._engine = self._engine, None
        with contextlib.suppress(Exception):
            async with asyncio.timeout(self._timeout):
                if connection is not None:
                    await connection.close()
                if engine is not None:
                    await engine.dispose()

    @contextlib.asynccontextmanager
    async def connected(self) -> AsyncIterator[AsyncConnection]:
        """The connection, for one statement."""
        if self._connection is None:
            raise StoreError(url=self.name, reason="it is not open")
        async with answering(PATIENCE, self.name):
            try:
                yield self._connection
            except BaseException:
                await self._interrupt(self._connection)
                raise

    async def _interrupt(self, connection: AsyncConnection) -> None:
        """End what the connection is doing."""
        await connection.invalidate()
        self._connection = None

    async def all(self, statement: Any) -> Sequence[Any]:
        """The rows of a statement."""
        async with self.connected() as connection:
            rows: Sequence[Any] = (await connection.execute(statement)).all()
            return rows

    async def one(self, statement: Any) -> Any:
        (row,) = await self.all(statement)
        return row

    async def schema(self) -> Schema:
        """The schema of its tables; `migrations.EMPTY` where there are none."""
        meta = await self.meta("version", "schema", "package")
        with reading(self.name, "schema version"):
            return Schema.of(meta) if meta is not None else migrations.EMPTY

    async def meta(self, *names: str) -> Mapping[str, bytes] | None:
        """What it says of itself under some names; None where there are no tables."""
        table = self.tables.meta
        async with self.connected() as connection:
            if not await connection.run_sync(lambda sync: inspect(sync).has_table(table.name)):
                return None
        rows = await self.all(select(table).where(table.c.name.in_(names)))
        return {row.name: row.value for row in rows}

    async def shape(self) -> Mapping[str, tuple[set[str], set[str]]]:
        """The columns and the indexes of each of its tables that is there."""
        names = [getattr(self.tables, each.name).name for each in fields(self.tables)]
        async with self.connected() as connection:
            return await connection.run_sync(
                lambda sync: {
                    name: (
                        {column["name"] for column in seen.get_columns(name)},
                        {str(index["name"]) for index in seen.get_indexes(name)},
                    )
                    for seen in (inspect(sync),)
                    for name in names
                    if seen.has_table(name)
                }
            )

    @property
    def dialect(self) -> str:
        """The dialect of its SQL."""
        return self._engine.dialect.name if self._engine is not None else ""

    @abstractmethod
    async def engine_version(self) -> str:
        """Of the database, as it says it."""

    @abstractmethod
    async def clock_offset(self) -> float | None:
        """How far the store's clock is ahead of this host's (seconds); None where it has none."""

    async def now(self) -> float:
        """The time by the clock that the workers on the store go by."""
        return time.time() + (await self.clock_offset() or 0.0)

    @abstractmethod
    async def sizes(self) -> Mapping[str, int]:
        """Bytes on disk, by what takes them."""

    @abstractmethod
    async def lacking_rights(self) -> Sequence[str]:
        """What this user may not do and a server has to."""

    async def hears_itself(self, channel: str) -> bool | None:
        """Whether a wake-up that is sent through a channel comes back; None where none is sent."""
        del channel
        return None

    @abstractmethod
    async def check_damage(self) -> Sequence[str]:
        """What the database itself finds damaged, as far as it can say."""

    def is_gone(self, worker: str) -> bool:
        """Whether it is known without the store that a worker's process has ended."""
        del worker
        return False
