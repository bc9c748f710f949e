"""The log in one SQLite file: WAL, one writer connection, one thread hop for each batch.

A batch runs as one function in the driver's thread: nothing can cancel it between its BEGIN and
its COMMIT. Rows go in with one statement, because each statement hands Python's interpreter lock
back and forth, and a busy event loop lets the driver's thread wait for it.
"""

import asyncio
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import URL, insert, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mcp_persist_middleware.errors import StoreError, StoreUnavailableError
from mcp_persist_middleware.log.base import Purged
from mcp_persist_middleware.model import Outcome, StreamWrite
from mcp_persist_middleware.stores.sql.rows import RowPage
from mcp_persist_middleware.stores.sql.schema import quoted
from mcp_persist_middleware.stores.sql.workers import reason, remedy
from mcp_persist_middleware.stores.sqlite import clock
from mcp_persist_middleware.stores.sqlite.batch import SqliteBatch
from mcp_persist_middleware.stores.sqlite.connections import SqliteConnections
from mcp_persist_middleware.stores.sqlite.inbox import SqliteInbox, SqliteSessions
from mcp_persist_middleware.stores.sqlite.inspection import SqliteInspection
from mcp_persist_middleware.stores.sqlite.journal import SqliteJournal
from mcp_persist_middleware.stores.sqlite.read import SqliteReads
from mcp_persist_middleware.stores.sqlite.statements import SqliteStatements
from mcp_persist_middleware.wakeups.base import Wakeups
from mcp_persist_middleware.wakeups.sqlite import DataVersion

T = TypeVar("T")

# Of the store's time-out: a step of retention may then wait for the lock, half of it, once more.
_STEP_PATIENCE = 0.25
_CLOCK = "clock"


class SqliteLog(SqliteConnections):
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
        super().__init__(
            url, path, prefix=prefix, timeout=timeout, synchronous=synchronous, engine=engine
        )
        self._statements = SqliteStatements(self.tables)
        self._reads = SqliteReads(self._statements, self.tables.stream.c.keys())
        self._sessions = SqliteSessions(self, self._statements, self.reading)
        self._inbox = SqliteInbox(self, self._statements, self.reading, self.writing)
        self._journal = SqliteJournal(self, self._statements, self.in_turn)
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
            cause = error.__cause__ or error
            fix = (
                "Make room on its disk"
                if remedy(getattr(cause, "orig", None) or cause)
                else "Check that the directory exists, that this user may write to the file and "
                "its directory, and that the file is a SQLite database"
            )
            raise StoreUnavailableError(url=self.name, reason=reason(cause), fix=fix) from error

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

    async def ping(self) -> None:
        await self.append([])

    async def append(self, batch: Sequence[StreamWrite]) -> list[Outcome]:
        return await self.in_turn(SqliteBatch(self._statements, batch))

    async def in_turn(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run a batch when those before it are done. Cancelled or not, the driver's thread runs it
        to its end, and the next one after."""
        async with self._lock:
            try:
                moved = not self._files.are_in_place
                driver = self._driver
                if moved or driver is None:
                    driver = await self._open_driver()
                if not moved:
                    done = await self._held.run(driver, lambda raw: self._commit(raw, work))
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
        return done

    def _commit(self, connection: sqlite3.Connection, work: Callable[[sqlite3.Connection], T]) -> T:
        done = work(connection)
        # A deleted file goes on "committing" into the inode without a name.
        if not self._files.are_in_place:
            raise self._moved()
        return done

    async def _row(self, stream: bytes) -> Any | None:
        return await self._read_in_thread(lambda raw: self._reads.row(raw, stream))

    async def _read(self, stream: bytes, after: int, max_events: int, max_bytes: int) -> RowPage:
        span = (stream, after, max_events)
        return await self._read_in_thread(lambda raw: self._reads.page(raw, span, max_bytes))

    async def _purge(self, now: float, max_events: int) -> Purged:
        return await self._freeing(
            lambda raw, until: self._reads.purge(raw, now, self.held_from(), max_events, until)
        )

    async def _remove(self, streams: Sequence[bytes], max_events: int) -> Purged:
        return await self._freeing(
            lambda raw, until: self._reads.remove(raw, streams, max_events, until)
        )

    async def size(self) -> int:
        return await self._whole(self._read_in_thread(self._reads.size))

    async def _freeing(self, step: Callable[[sqlite3.Connection, float], Purged]) -> Purged:
        """A step that removes something, and may begin nothing after a time, on the monotonic
        clock; and a step that gives its pages back."""
        until = time.monotonic() + self._timeout * _STEP_PATIENCE
        purged = await self._read_in_thread(lambda raw: step(raw, until))
        try:
            more = await self.vacuum()
        except StoreError:
            # What was removed is told; the next step says what is wrong.
            if not purged.removed:
                raise
            more = True
        return Purged(purged.removed, more=purged.more or more)
