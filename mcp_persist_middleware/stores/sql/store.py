"""How everything in SQL reaches its store: connections, statements, and the one seam for what a
driver raises."""

import asyncio
import contextlib
import secrets
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

from sqlalchemy import (
    URL,
    ColumnElement,
    Select,
    Table,
    UpdateBase,
    and_,
    delete,
    insert,
    select,
    text,
)
from sqlalchemy.engine import Row
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.sql.dml import ReturningDelete, ReturningUpdate

from mcp_persist_middleware.errors import StoreError
from mcp_persist_middleware.log.clock import StoreClock, Timed
from mcp_persist_middleware.stores.sql import schema
from mcp_persist_middleware.stores.sql.workers import connected
from mcp_persist_middleware.supervision import Tasks

T = TypeVar("T")

Rows = Select[Any] | ReturningUpdate[Any] | ReturningDelete[Any]
"""Statements that give rows."""


class SqlStore(Timed, ABC):
    """The tables of one store, and short statements over an `AsyncEngine` in autocommit mode."""

    name: str = ""
    _exclusive: str
    """The statement that begins a transaction which is alone in writing."""

    def __init__(self, url: URL, *, prefix: str, timeout: float) -> None:
        self.name = url.render_as_string(hide_password=True)
        self._clock = StoreClock()
        self.tables = schema.tables(prefix)
        self._timeout = timeout
        self._running = Tasks("mcp-persist-sql")

    def now(self) -> float:
        return self._clock.now()

    def rows(self, table: Table, *conditions: ColumnElement[bool]) -> ColumnElement[bool]:
        """A condition for the same rows, for a statement that changes several of them. Where rows
        are locked one by one, it has them locked in one order: statements that meet wait for each
        other, and not for ever."""
        del table
        return and_(*conditions)

    @property
    @abstractmethod
    def _engine(self) -> AsyncEngine:
        """The engine; its connections are in autocommit mode."""

    @contextlib.asynccontextmanager
    async def _connection(self, timeout: float = 0.0) -> AsyncIterator[AsyncConnection]:
        """A connection for a short read or one statement; the one seam for driver errors."""
        async with connected(self._engine, timeout or self._timeout, self.name) as connection:
            yield connection

    def _whole(self, work: Coroutine[Any, Any, T]) -> asyncio.Future[T]:
        """Finish an operation even when its caller is cancelled: a connection that is cancelled
        on its way out of the pool, or back, is lost to it.
        """
        return self._running.whole(work)

    async def execute(self, statement: UpdateBase) -> int:
        """Run one statement that is a transaction of its own; the number of rows it changed.

        Raises:
            IntegrityError: a row with this key is there.
            StoreError: the store does not do it.
        """
        return await self._whole(self._execute(statement))

    async def _execute(self, statement: UpdateBase) -> int:
        async with self._connection() as connection:
            return (await connection.execute(statement)).rowcount

    async def execute_many(self, statement: Any, rows: Sequence[Mapping[str, Any]]) -> None:
        """Run one statement for many rows, in one transaction.

        Raises:
            StoreError: the store does not do it, and has done none of them.
        """
        await self._whole(self._execute_many(statement, rows))

    async def _execute_many(self, statement: Any, rows: Sequence[Mapping[str, Any]]) -> None:
        async with self._transaction() as connection:
            await connection.execute(statement, rows)

    async def execute_together(self, *statements: UpdateBase) -> list[int]:
        """Run statements in one transaction; the number of rows that each of them changed.

        Raises:
            StoreError: the store does not do it, and has done none of them.
        """
        return await self._whole(self._execute_together(statements))

    async def _execute_together(self, statements: Sequence[UpdateBase]) -> list[int]:
        async with self._transaction() as connection:
            return [(await connection.execute(each)).rowcount for each in statements]

    async def transact(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Run what needs to look before it writes, in one transaction.

        Raises:
            IntegrityError: a row with this key is there.
            StoreError: the store does not do it, and has done nothing of it.
        """
        return await self._whole(self._transact(work))

    async def _transact(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        async with self._transaction() as connection:
            return await work(connection)

    @contextlib.asynccontextmanager
    async def _transaction(self, timeout: float = 0.0) -> AsyncIterator[AsyncConnection]:
        """A connection in a transaction of its own, which is committed at the end."""
        async with self._connection(timeout) as connection:
            await connection.execute(text(self._exclusive))
            try:
                yield connection
                await connection.execute(text("COMMIT"))
            except BaseException:
                # It may not go back into the pool with its transaction open.
                await connection.invalidate()
                raise

    async def check(self) -> None:
        """Write, read and delete in one transaction.

        Raises:
            StoreError: the store does not do it.
        """
        await self._whole(self._check())

    async def _check(self) -> None:
        table, name = self.tables.meta, f"check-{secrets.token_hex(8)}"
        of_mine = table.c.name == name
        async with self._connection() as connection:
            await connection.execute(text(self._exclusive))
            try:
                # What is written here is never seen by anybody else, whatever happens.
                await connection.execute(insert(table).values(name=name, value=b""))
                found = (await connection.execute(select(table.c.name).where(of_mine))).all()
                await connection.execute(delete(table).where(of_mine))
                await connection.execute(text("COMMIT"))
            except BaseException:
                # It may not go back into the pool with its transaction open.
                await connection.invalidate()
                raise
        if not found:
            raise StoreError(url=self.name, reason="what was written to it cannot be read")

    async def all(self, statement: Rows) -> Sequence[Row[Any]]:
        """The rows of a short read, or those that one statement has changed.

        Raises:
            StoreError: the store does not do it.
        """
        return await self._whole(self._all(statement))

    async def _all(
        self,
        statement: Rows,
        timeout: float = 0.0,
    ) -> Sequence[Row[Any]]:
        async with self._connection(timeout) as connection:
            rows: Sequence[Row[Any]] = (await connection.execute(statement)).all()
            return rows

    async def first(self, statement: Select[Any]) -> Row[Any] | None:
        """The one row of a read by key."""
        return next(iter(await self.all(statement)), None)
