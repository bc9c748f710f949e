"""The connections to one SQLite file: its one writer, its readers, and all of them anew where the
file was deleted or replaced."""

import asyncio
import contextlib
import logging
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import aiosqlite
from sqlalchemy import URL, event, text
from sqlalchemy.engine import Engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mcp_persist_middleware.errors import StoreError
from mcp_persist_middleware.grouped import Grouped, tried
from mcp_persist_middleware.stores.sql.log import SqlLog
from mcp_persist_middleware.stores.sql.workers import reason, trouble
from mcp_persist_middleware.stores.sqlite import engine as engines
from mcp_persist_middleware.stores.sqlite.drivers import Drivers, in_thread_of
from mcp_persist_middleware.stores.sqlite.files import Files
from mcp_persist_middleware.stores.sqlite.hold import HeldLoop
from mcp_persist_middleware.stores.sqlite.workers import WorkerLocks
from mcp_persist_middleware.supervision import retrieve

logger = logging.getLogger(__name__)

T = TypeVar("T")
_Work = Callable[[sqlite3.Connection], Any]

# Of the store's time-out.
_BEAT_PATIENCE = 0.1
_END_SECONDS = 1.0
_LOOK_AGAIN = 0.01


class SqliteConnections(SqlLog):
    """The part of a `SqliteLog` that knows where its file is."""

    def __init__(
        self,
        url: URL,
        path: Path | None = None,
        *,
        prefix: str,
        timeout: float,
        synchronous: str = "normal",
        engine: AsyncEngine | None = None,
    ) -> None:
        super().__init__(url, prefix=prefix, timeout=timeout, engine=engine)
        # The name that it is known by is the one that was given.
        self._path = path if path is not None else Path(url.database or "")
        self._url = url.set(database=str(self._path))
        self._synchronous = synchronous
        self._held = HeldLoop()
        self._writer: AsyncConnection | None = None
        self._driver: aiosqlite.Connection | None = None
        self._files = Files(self._path)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._locks = WorkerLocks(self._path)
        self._drivers = Drivers()
        shared = self._running, timeout, self._late
        self._readings = Grouped[_Work, Any](self._together, *shared)
        self._writings = Grouped[_Work, Any](self._in_one, *shared)

    def _make_engine(self) -> AsyncEngine:
        factory = self._files.connection_class
        return engines.make(self._url, self._timeout, self._synchronous, factory, self._drivers)

    async def _connect_writer(self) -> None:
        self._files.settle()
        await self._prepare_schema()
        self._writer = await self._engine.connect()
        await self._writer.execute(text("BEGIN IMMEDIATE"))
        await self._writer.execute(text("ROLLBACK"))
        raw = await self._writer.get_raw_connection()
        self._files.settle()
        self._driver = raw.driver_connection

    async def aclose(self) -> None:
        try:
            await super().aclose()
        finally:
            self._locks.release()
            if await self._drivers.end(_END_SECONDS):
                self._files.close()

    def is_gone(self, worker: str) -> bool:
        try:
            return not self._locks.is_held(worker)
        except OSError:  # no descriptor is left, for one: that says nothing either
            return False

    def _tune(self, engine: AsyncEngine) -> None:
        """A heartbeat does not queue for the write lock as long as an append may: the next one
        comes soon, and a failed one is worth knowing."""
        milliseconds = int(self._timeout * _BEAT_PATIENCE * 1000)

        @event.listens_for(engine.sync_engine, "connect")
        def hurry(connection: Any, _: Any) -> None:
            cursor = connection.cursor()
            cursor.execute(f"PRAGMA busy_timeout = {milliseconds}")
            cursor.close()

    @contextlib.asynccontextmanager
    async def _connection(self, timeout: float = 0.0) -> AsyncIterator[AsyncConnection]:
        if not self._files.are_in_place:
            await self._move()
        async with super()._connection(timeout) as connection:
            yield connection

    async def reading(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run a short piece of work that only reads on a connection of the pool, to its end and in
        one hop with others of its kind.

        Raises:
            StoreError: the store does not do it.
        """
        return await self._stepped(self._readings, work)

    async def writing(self, work: Callable[[sqlite3.Connection], T], *, certain: bool = False) -> T:
        """The same of one that writes, in one transaction: it may have to wait for the file's one
        write lock.

        Args:
            certain: it is done even for somebody who is cancelled before it was begun.

        Raises:
            StoreError: the store does not do it.
        """
        return await self._stepped(self._writings, work, certain=certain)

    async def _stepped(
        self,
        group: Grouped[_Work, Any],
        work: Callable[[sqlite3.Connection], T],
        *,
        certain: bool = False,
    ) -> T:
        try:
            found: T = await group.run(work, certain=certain)
        except sqlite3.Error as error:
            raise trouble(self.name, error) from error
        return found

    async def _together(self, works: Sequence[_Work]) -> list[Any]:
        return await self._read_in_thread(lambda raw: [tried(work, raw) for work in works])

    async def _in_one(self, works: Sequence[_Work]) -> list[Any]:
        return await self._read_in_thread(partial(_transaction, works))

    async def _read_in_thread(self, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            async with self._connection() as connection:
                raw = await connection.get_raw_connection()
                driver: Any = raw.driver_connection
                return await in_thread_of(driver, work)
        except sqlite3.Error as error:
            raise trouble(self.name, error) from error

    def _check_place(self) -> None:
        if not self._files.are_in_place:
            with contextlib.suppress(RuntimeError):  # the event loop is closed
                if self._loop is not None:
                    self._loop.call_soon_threadsafe(self._move_soon)
            raise self._moved()

    def _moved(self) -> StoreError:
        return StoreError(url=self.name, reason="its file was deleted or replaced")

    def _move_soon(self) -> None:
        """Nobody may have anything to do with the store for a long time, but the heartbeat has."""
        if self._worker and not self._lock.locked():
            self._running.begin(self._move()).add_done_callback(retrieve)

    async def _move(self) -> None:
        """Go on in the files that are there now."""
        try:
            async with asyncio.timeout(self._timeout), self._lock:
                if not self._worker:
                    raise self._moved()
                await self._open_driver()
        except (sqlite3.Error, SQLAlchemyError, OSError) as error:
            raise StoreError(url=self.name, reason=reason(error)) from error

    async def _open_driver(self) -> aiosqlite.Connection:
        """Under the lock: the writer's connection, to the files that are there."""
        if self._made is None and self._given is None:
            raise StoreError(url=self.name, reason="it is closed")
        if not self._files.are_in_place:
            await self._leave_files()
            self._files.create()
            await self._connect_writer()
            await self._enrol_again()
            logger.warning(
                "MPM-STORE-15: Files of %s were deleted or replaced; it goes on without", self.name
            )
        elif self._driver is None:
            await self._connect_writer()
        assert self._driver is not None
        return self._driver

    async def _drop_writer(self) -> None:
        writer, self._writer, self._driver = self._writer, None, None
        if writer is not None:
            # A connection that failed is not put back into the pool.
            with contextlib.suppress(SQLAlchemyError, sqlite3.Error, TimeoutError):
                async with asyncio.timeout(self._timeout):
                    await writer.invalidate()
                    await writer.close()

    async def _leave_files(self) -> None:
        """Close every connection to files that were deleted or replaced.

        Raises:
            StoreError: somebody does not let go of them.
        """
        if self._driver is not None and self._files.can_be_saved:
            # A log without a name: what it has goes where it would be lost otherwise.
            await self._held.run(self._driver, engines.write_back)
        await self._drop_writer()
        given = self._engine.sync_engine
        pool = given.pool
        await self._engine.dispose()
        until = time.monotonic() + self._timeout
        while self._files.are_in_use:
            if time.monotonic() > until:
                raise self._moved()
            await asyncio.sleep(_LOOK_AGAIN)
            # What was in use has come back.
            await AsyncEngine(Engine(pool, given.dialect, given.url)).dispose()

    async def _enrol_again(self) -> None:
        """A worker without a row, or without its lock, is taken for dead."""
        if self._worker and not self._locks.is_held(self._worker):
            self._locks.release()
            self._locks.acquire(self._worker)
        if self._worker and self._worker not in await self._workers.look():
            await self._workers.enrol(self._worker)


def _transaction(works: Sequence[_Work], raw: sqlite3.Connection) -> list[Any]:
    """What each has done in one transaction: one wait for the lock and one commit for all of them,
    and whoever else waits for the lock has it after that. What fails has done nothing, and where
    SQLite has taken back all with it, as on a full disk, the others are done once more without it.
    """
    found: list[Any] = [None] * len(works)
    left = list(range(len(works)))
    ended = _attempt(works, left, found, raw)
    if ended is not None:
        left.remove(ended)
        again = _attempt(works, left, found, raw) if left else None
        if again is not None:
            raise found[again]
    return found


def _attempt(
    works: Sequence[_Work], numbers: Sequence[int], found: list[Any], raw: sqlite3.Connection
) -> int | None:
    """Do some of them in one transaction; the number of the one that has ended it, if one has."""
    raw.execute("BEGIN IMMEDIATE")
    try:
        for number in numbers:
            raw.execute("SAVEPOINT piece")
            found[number] = tried(works[number], raw)
            if not raw.in_transaction:
                return number
            if isinstance(found[number], Exception):
                raw.execute("ROLLBACK TO piece")
            raw.execute("RELEASE piece")
        raw.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            raw.execute("ROLLBACK")
        raise
    return None
