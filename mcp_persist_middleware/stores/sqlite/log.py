"""The log in one SQLite file: WAL, one writer connection, one thread hop for each batch.

A batch runs as one function in the driver's thread: nothing can cancel it between its BEGIN and
its COMMIT. Rows go in with one statement, because each statement hands Python's interpreter lock
back and forth, and a busy event loop lets the driver's thread wait for it.
"""

import asyncio
import contextlib
import logging
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import aiosqlite
from sqlalchemy import URL, event, insert, text, update
from sqlalchemy.engine import Engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from mcp_persist_middleware import redaction
from mcp_persist_middleware.errors import StoreError, StoreUnavailableError
from mcp_persist_middleware.log.base import Purged
from mcp_persist_middleware.model import Outcome, StreamWrite
from mcp_persist_middleware.stores.sql.log import SqlLog
from mcp_persist_middleware.stores.sql.rows import RowPage
from mcp_persist_middleware.stores.sql.schema import quoted
from mcp_persist_middleware.stores.sql.workers import reason, trouble
from mcp_persist_middleware.stores.sqlite import clock
from mcp_persist_middleware.stores.sqlite.batch import SqliteBatch
from mcp_persist_middleware.stores.sqlite.drivers import Drivers, submit
from mcp_persist_middleware.stores.sqlite.files import Files
from mcp_persist_middleware.stores.sqlite.inbox import SqliteInbox, SqliteSessions
from mcp_persist_middleware.stores.sqlite.inspection import SqliteInspection
from mcp_persist_middleware.stores.sqlite.read import SqliteReads
from mcp_persist_middleware.stores.sqlite.statements import SqliteStatements
from mcp_persist_middleware.stores.sqlite.workers import WorkerLocks
from mcp_persist_middleware.supervision import retrieve
from mcp_persist_middleware.wakeups.base import Wakeups
from mcp_persist_middleware.wakeups.sqlite import DataVersion

logger = logging.getLogger(__name__)

T = TypeVar("T")

# How long (seconds) the event loop waits for a commit. 16 streams flat out have an event after
# 8.4 ms so, after 12 ms with a fifth of it, for their batches take longer; on a busy machine one at
# 200 events/s has it 0.3 to 0.6 ms later than bare, and not 0.7 to 1.0. The price: everything else
# in the process may be late by as much. After a commit that took longer the next is not waited for,
# after two in a row the next two, then four, and so on: the disk is slow then.
_HOLD, _SLOWEST = 0.01, 7
_READERS = 4
# Of the store's time-out. A step of retention may then wait for the lock, half of it, once more.
_BEAT_PATIENCE, _STEP_PATIENCE = 0.1, 0.25
_WAL_TRIES, _WAL_PAUSE = 50, 0.01
_END_SECONDS = 1.0
_WAL_BYTES = 64 * 1024 * 1024
_LOOK_AGAIN = 0.01
_CLOCK = "clock"


class SqliteLog(SqlLog):
    """`EventLog` in a SQLite file, shared by the processes of one host.

    What is committed survives the death of the process; with `synchronous="full"` the loss of
    power as well (https://www.sqlite.org/pragma.html#pragma_synchronous).
    """

    _exclusive = "BEGIN IMMEDIATE"

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
        self._slow = self._unheld = 0
        self._writer: AsyncConnection | None = None
        self._driver: aiosqlite.Connection | None = None
        self._files = Files(self._path)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._statements = SqliteStatements(self.tables)
        self._reads = SqliteReads(self._statements, self.tables.stream.c.keys())
        self._sessions = SqliteSessions(self, self._statements, self.in_thread)
        self._inbox = SqliteInbox(self, self._statements, self.in_thread)
        self._locks = WorkerLocks(self._path)
        self._drivers = Drivers()
        self._wakeups = DataVersion(
            self._files.connect,
            lambda: self._files.are_in_place,
            stream=quoted(self.tables.stream),
            event=quoted(self.tables.event),
            inbox=quoted(self.tables.inbox),
        )

    @property
    def path(self) -> Path:
        """The file."""
        return self._path

    @property
    def synchronous(self) -> str:
        """What a commit waits for."""
        return self._synchronous

    @property
    def durability(self) -> str:
        if self._given is not None:
            return "what is committed is as safe as your engine makes it"
        power = "and" if self._synchronous == "full" else "not"
        return f"what is committed survives the death of the process, {power} the loss of power"

    @property
    def wakeups(self) -> Wakeups:
        return self._wakeups

    def inspection(self) -> SqliteInspection:
        return SqliteInspection(self.name, self._path, self.tables, self._timeout)

    async def vacuum(self) -> bool:
        return await self._read_in_thread(self._reads.vacuum)

    async def open(self, worker: str) -> None:
        self._loop = asyncio.get_running_loop()
        try:
            self._files.create()
            self._locks.acquire(worker)
            if self._given is None and self._made is None:
                self._own(self._make_engine())
            async with self._lock:
                await self._connect_writer()
            await self._workers.enrol(worker)
            self._worker = worker
        except (OSError, SQLAlchemyError, sqlite3.Error, StoreError) as error:
            await self.aclose()
            if isinstance(error, StoreError) and error.__cause__ is None:
                raise
            why = reason(error.__cause__ or error)
            raise StoreUnavailableError(
                url=self.name,
                reason=why,
                fix="Check that the directory exists, that this user may write to the file and "
                "its directory, and that the file is a SQLite database",
            ) from error

    def _make_engine(self) -> AsyncEngine:
        redaction.hush_engines()
        engine = create_async_engine(
            self._url,
            hide_parameters=True,
            logging_name=redaction.ENGINE,
            pool_size=_READERS + 1,
            max_overflow=0,
            pool_timeout=self._timeout,
            pool_reset_on_return=None,
            connect_args={
                "timeout": self._timeout / 2,
                "factory": self._files.connection_class,
                "async_creator_fn": self._drivers.connect,
            },
            isolation_level="AUTOCOMMIT",
        )
        synchronous = self._synchronous

        @event.listens_for(engine.sync_engine, "connect")
        def configure(connection: Any, _: Any) -> None:
            # In the driver's thread: it may have to wait.
            connection.run_async(lambda driver: _in_thread_of(driver, set_up))

        def set_up(raw: sqlite3.Connection) -> None:
            raw.execute("PRAGMA auto_vacuum = INCREMENTAL")
            _enter_wal(raw)
            raw.execute(f"PRAGMA synchronous = {synchronous}")
            raw.execute(f"PRAGMA journal_size_limit = {_WAL_BYTES}")
            # Not all builds of SQLite overwrite what is deleted by themselves.
            raw.execute("PRAGMA secure_delete = ON")

        return engine

    async def _set_clock(self, connection: AsyncConnection, meta: Mapping[str, bytes]) -> None:
        # Who is first at a file says what the time is, whatever is done to the host's clock then.
        agreed = clock.agreed(meta.get(_CLOCK, b"")) if self._locks.has_others else None
        if agreed is not None and not self._worker:
            self._clock.set(agreed)
        table, value = self.tables.meta, clock.told(self._clock)
        if _CLOCK not in meta:
            await connection.execute(insert(table).values(name=_CLOCK, value=value))
        elif agreed is None:
            await connection.execute(
                update(table).where(table.c.name == _CLOCK).values(value=value)
            )

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

    @contextlib.asynccontextmanager
    async def _connection(self, timeout: float = 0.0) -> AsyncIterator[AsyncConnection]:
        if not self._files.are_in_place:
            await self._move()
        async with super()._connection(timeout) as connection:
            yield connection

    async def _move(self) -> None:
        """Go on in the files that are there now."""
        try:
            async with asyncio.timeout(self._timeout), self._lock:
                if not self._worker:
                    raise self._moved()
                await self._open_driver()
        except (sqlite3.Error, SQLAlchemyError, OSError) as error:
            raise StoreError(url=self.name, reason=reason(error)) from error

    async def _drop_writer(self) -> None:
        writer, self._writer, self._driver = self._writer, None, None
        if writer is not None:
            # A connection that failed is not put back into the pool.
            with contextlib.suppress(SQLAlchemyError, sqlite3.Error, TimeoutError):
                async with asyncio.timeout(self._timeout):
                    await writer.invalidate()
                    await writer.close()

    async def ping(self) -> None:
        await self.append([])

    async def append(self, batch: Sequence[StreamWrite]) -> list[Outcome]:
        # Cancelled or not, the driver's thread runs the batch to its end, and the next one after.
        work = SqliteBatch(self._statements, batch)
        async with self._lock:
            try:
                moved = not self._files.are_in_place
                driver = self._driver
                if moved or driver is None:
                    driver = await self._open_driver()
                if not moved:
                    outcomes = await self._in_thread(driver, lambda raw: self._commit(raw, work))
            except (sqlite3.Error, SQLAlchemyError, OSError) as error:
                await self._drop_writer()
                raise StoreError(url=self.name, reason=reason(error)) from error
            except StoreError:
                if self._files.are_in_place:
                    await self._drop_writer()
                raise
        if moved:
            # Whoever writes a stream that was in it has to know.
            raise self._moved()
        return outcomes

    def _commit(self, connection: sqlite3.Connection, batch: SqliteBatch) -> list[Outcome]:
        outcomes = batch(connection)
        # A deleted file goes on "committing" into the inode without a name.
        if not self._files.are_in_place:
            raise self._moved()
        return outcomes

    async def _in_thread(
        self, driver: aiosqlite.Connection, work: Callable[[sqlite3.Connection], T]
    ) -> T:
        """Run in the driver's thread, with the event loop held still for at most `_HOLD`.

        A busy event loop takes the interpreter lock back before the driver's thread has woken up,
        for tens of milliseconds on end; a commit that takes 0.1 ms is over sooner when the loop
        waits, and what came of it is at hand without another round of the loop.
        """
        done = submit(driver, work)
        if self._unheld:
            self._unheld -= 1
        else:
            try:
                result = done.result(_HOLD)
            except TimeoutError:
                self._slow = min(self._slow + 1, _SLOWEST)
            else:
                self._slow = 0
                return result
            finally:
                self._unheld = (1 << self._slow) >> 1
        return await asyncio.wrap_future(done)

    async def _row(self, stream: bytes) -> Any | None:
        return await self._read_in_thread(lambda raw: self._reads.row(raw, stream))

    async def _read(self, stream: bytes, after: int, max_events: int, max_bytes: int) -> RowPage:
        span = (stream, after, max_events)
        return await self._read_in_thread(lambda raw: self._reads.page(raw, span, max_bytes))

    async def in_thread(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run a short piece of work on a connection of the pool, in one hop and to its end.

        Raises:
            StoreError: the store does not do it.
        """
        return await self._whole(self._read_in_thread(work))

    async def _read_in_thread(self, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            async with self._connection() as connection:
                raw = await connection.get_raw_connection()
                driver: Any = raw.driver_connection
                return await _in_thread_of(driver, work)
        except sqlite3.Error as error:
            raise trouble(self.name, error) from error

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

    async def _leave_files(self) -> None:
        """Close every connection to files that were deleted or replaced.

        Raises:
            StoreError: somebody does not let go of them.
        """
        if self._driver is not None and self._files.can_be_saved:
            # A log without a name: what it has goes where it would be lost otherwise.
            await self._in_thread(self._driver, _write_back)
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

    async def _purge(self, now: float, max_events: int) -> Purged:
        until = time.monotonic() + self._timeout * _STEP_PATIENCE
        purged = await self._read_in_thread(
            lambda raw: self._reads.purge(raw, now, max_events, until)
        )
        try:
            more = await self.vacuum()
        except StoreError:
            # What was removed is told; the next step says what is wrong.
            if not purged.removed:
                raise
            more = True
        return Purged(purged.removed, more=purged.more or more)


def _in_thread_of(
    driver: aiosqlite.Connection, work: Callable[[sqlite3.Connection], T]
) -> Coroutine[Any, Any, T]:
    """The one use of a protected method: aiosqlite has no public way to run several statements in
    one hop. SQLAlchemy's own dialect reaches deeper."""
    running: Coroutine[Any, Any, T] = driver._execute(work, driver._conn)  # type: ignore[no-untyped-call]  # noqa: SLF001
    return running


def _enter_wal(connection: sqlite3.Connection) -> None:
    """Switch a file to WAL. Of several who open a new one at once SQLite tells all but one that it
    is locked, without waiting (https://www.sqlite.org/wal.html)."""
    for left in reversed(range(_WAL_TRIES)):
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError:
            if not left:
                raise
            time.sleep(_WAL_PAUSE)
        else:
            return


def _write_back(connection: sqlite3.Connection) -> None:
    (busy, *_) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    if busy:
        raise sqlite3.OperationalError("the write-ahead log was deleted while others read in it")
