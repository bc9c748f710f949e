"""The table of workers in SQL, and the one seam for what a driver raises."""

import asyncio
import contextlib
import sqlite3
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

from sqlalchemy import ColumnElement, Table, Update, delete, insert, select, update
from sqlalchemy.engine import Engine
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mcp_persist_middleware.errors import StoreError, UnreadableRowError
from mcp_persist_middleware.log.clock import StoreClock
from mcp_persist_middleware.log.parts import WorkerTable
from mcp_persist_middleware.model import Beat, WorkerState
from mcp_persist_middleware.stores.sql import migrations
from mcp_persist_middleware.stores.sql.rows import state_of

Begin = Callable[[], AbstractAsyncContextManager[AsyncConnection]]

_CLOSE_SECONDS = 0.5
# PostgreSQL's data_corrupted and index_corrupted, and SQLITE_CORRUPT.
_DAMAGE, _CORRUPT = ("XX001", "XX002"), 11
# PostgreSQL's insufficient_privilege and disk_full.
_REMEDIES: Mapping[str | None, str] = {
    "42501": "grant the user SELECT, INSERT, UPDATE and DELETE on the tables",
    "53100": "make room on the disk of its server",
}


def reason(error: BaseException) -> str:
    """What a driver says went wrong, without the statement and its parameters."""
    origin = getattr(error, "orig", None) or error
    said = f"{type(origin).__name__}: {origin}".splitlines()[0]
    # asyncpg repeats the value of a parameter that it cannot send.
    before, found, _ = said.partition("invalid input for query argument")
    return before + found if found else said


def trouble(name: str, error: BaseException) -> StoreError:
    """What is raised for what a driver raised."""
    origin: Any = getattr(error, "orig", None) or error
    if getattr(origin, "sqlstate", None) in _DAMAGE or is_damaged(origin):
        return UnreadableRowError(url=name, what="damaged part", reason=reason(error))
    fix = remedy(origin)
    return StoreError(url=name, reason=f"{reason(error)}; {fix}" if fix else reason(error))


def remedy(error: object) -> str | None:
    """What helps against what a driver says, where that is clear."""
    if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL:
        return "make room on its disk"
    return _REMEDIES.get(getattr(error, "sqlstate", None))


def is_damaged(error: object) -> bool:
    """Whether SQLite says that a part of its file is damaged, and not that it is busy or away."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == _CORRUPT


@contextlib.asynccontextmanager
async def answering(
    timeout: float, name: str, passing: tuple[type[Exception], ...] = ()
) -> AsyncIterator[None]:
    """The seam for what SQLAlchemy and the drivers raise; `passing` is let through.

    Raises:
        StoreError: the driver fails, or it takes longer than `timeout`.
    """
    try:
        async with asyncio.timeout(timeout):
            yield
    except passing:
        raise
    except TimeoutError as error:
        raise StoreError(url=name, reason=f"no answer in {timeout} s") from error
    except (SQLAlchemyError, OSError, *_driver_errors()) as error:  # type: ignore[misc]
        raise trouble(name, error) from error


def _driver_errors() -> tuple[type[Exception], ...]:
    """What a driver raises by itself where SQLAlchemy does not translate it: at a connect, or
    on a connection to which the server said farewell."""
    asyncpg: Any = sys.modules.get("asyncpg")
    if asyncpg is None:
        return ()
    return asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError


@contextlib.asynccontextmanager
async def connected(
    engine: AsyncEngine, timeout: float, name: str
) -> AsyncIterator[AsyncConnection]:
    """A connection for a short piece of work.

    Raises:
        IntegrityError: a row with this key is there.
        StoreError: the driver fails, or it takes longer than `timeout`.
    """
    async with answering(timeout, name, (IntegrityError,)), engine.connect() as connection:
        yield connection


class OwnConnection:
    """One connection that stays open from one heartbeat to the next: taking it from a pool and
    giving it back would cost more than what is done with it."""

    def __init__(self, engine: AsyncEngine, timeout: float, name: str) -> None:
        self._engine = engine
        self._timeout = timeout
        self._name = name
        self._open: AsyncConnection | None = None

    @contextlib.asynccontextmanager
    async def __call__(self) -> AsyncIterator[AsyncConnection]:
        async with answering(self._timeout, self._name):
            if self._open is None:
                self._open = await self._engine.connect()
            yield self._open

    async def aclose(self) -> None:
        """Close it, unless it hangs: then it is left to the driver."""
        with contextlib.suppress(TimeoutError, SQLAlchemyError, OSError, *_driver_errors()):
            async with asyncio.timeout(_CLOSE_SECONDS):
                if self._open is not None:
                    await self._open.close()
                await self._engine.dispose()


def engine_of_its_own(engine: AsyncEngine) -> AsyncEngine:
    """An engine that connects like `engine`, with its arguments and its listeners, and shares no
    connection with it: another event loop may use it."""
    given = engine.sync_engine
    made = AsyncEngine(Engine(given.pool.recreate(), given.dialect, given.url))
    return made.execution_options(isolation_level="AUTOCOMMIT")


class SqlWorkers(WorkerTable):
    """`WorkerTable` over an engine in autocommit mode: every statement is a transaction.

    Args:
        check: raises when the store is not where it was.
        clock: told the time at each look.
        time_there: what the store says it is; None where it has no clock of its own.
    """

    def __init__(
        self,
        connect: Begin | OwnConnection,
        table: Table,
        check: Callable[[], None],
        clock: StoreClock,
        time_there: ColumnElement[float] | None,
    ) -> None:
        self._connect = connect
        self._table = table
        self._check = check
        self._clock = clock
        self._time_there = time_there

    def now(self) -> float:
        return self._clock.now()

    async def enrol(self, worker: str) -> None:
        self._check()
        row = {"id": worker, "counter": 1, "state": WorkerState.LIVE, "seen_at": self.now()}
        row["schema"] = migrations.NEWEST
        async with self._connect() as connection:
            await connection.execute(delete(self._table).where(self._table.c.id == worker))
            await connection.execute(insert(self._table).values(row))

    async def beat(self, worker: str, state: WorkerState) -> bool:
        moved = {"counter": self._table.c.counter + 1, "state": state, "seen_at": self.now()}
        # Who was declared dead stays dead, however late it wakes.
        return await self._change(
            update(self._table)
            .where(self._table.c.id == worker, self._table.c.state != WorkerState.DEAD)
            .values(moved)
        )

    async def look(self) -> Mapping[str, Beat]:
        self._check()
        table = self._table
        columns: list[Any] = [table.c.id, table.c.counter, table.c.state, table.c.seen_at]
        if self._time_there is not None:
            columns.append(self._time_there.label("time_there"))
        async with self._connect() as connection:
            began = time.monotonic()
            rows = (await connection.execute(select(*columns))).all()
        if rows and self._time_there is not None:
            self._clock.learn(float(rows[0].time_there), began)
        return {row.id: Beat(row.counter, state_of(row.state), row.seen_at) for row in rows}

    async def declare_dead(self, worker: str, counter: int) -> bool:
        """Mark a worker as dead if its counter still stands at `counter`; whether it is dead."""
        return await self._change(
            update(self._table)
            .where(self._table.c.id == worker, self._table.c.counter == counter)
            .values(state=WorkerState.DEAD)
        )

    async def deregister(self, worker: str) -> None:
        """Remove a worker's row."""
        async with self._connect() as connection:
            await connection.execute(delete(self._table).where(self._table.c.id == worker))

    async def _change(self, statement: Update) -> bool:
        self._check()
        async with self._connect() as connection:
            return (await connection.execute(statement)).rowcount == 1

    async def aclose(self) -> None:
        if isinstance(self._connect, OwnConnection):
            await self._connect.aclose()
