"""The log in SQL: what every dialect shares. Hot writes are in the dialect's own file."""

import asyncio
import contextlib
import secrets
import time
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from sqlalchemy import URL, ColumnElement, delete, func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.pool import QueuePool

from mcp_persist_middleware import rarely, telemetry
from mcp_persist_middleware.errors import StoreError
from mcp_persist_middleware.log import mirror
from mcp_persist_middleware.log.base import Answers, Purged, StoreFacts, Written
from mcp_persist_middleware.log.parts import WorkerTable
from mcp_persist_middleware.model import Beat, Event
from mcp_persist_middleware.stores.sql import migrations
from mcp_persist_middleware.stores.sql.checked_out import CheckedOut
from mcp_persist_middleware.stores.sql.inbox import SqlInbox
from mcp_persist_middleware.stores.sql.inspection import Inspection
from mcp_persist_middleware.stores.sql.jobs import SqlJobs
from mcp_persist_middleware.stores.sql.journal import SqlJournal
from mcp_persist_middleware.stores.sql.listing import answers_after
from mcp_persist_middleware.stores.sql.rows import RowPage
from mcp_persist_middleware.stores.sql.sessions import SqlSessions
from mcp_persist_middleware.stores.sql.streams import SqlStreams
from mcp_persist_middleware.stores.sql.upgrade import Upgrade
from mcp_persist_middleware.stores.sql.workers import (
    Begin,
    OwnConnection,
    SqlWorkers,
    engine_of_its_own,
)

logger = rarely.logger(__name__)

# To look at the tables, or to make them, may take longer than a stream may wait.
_LOOK_SECONDS, _STEP_SECONDS = 30.0, 600.0


class SqlLog(SqlStreams):
    """Reads, retention and schema, and the life of the engine.

    Args:
        engine: somebody else's; never closed. Without one the dialect makes its own.
    """

    _sessions: SqlSessions
    _inbox: SqlInbox
    _journal: SqlJournal
    _time_there: ColumnElement[float] | None = None
    """What the store says the time is."""

    def __init__(
        self, url: URL, *, prefix: str, timeout: float, engine: AsyncEngine | None = None
    ) -> None:
        super().__init__(url, prefix=prefix, timeout=timeout)
        self._given = engine
        self._made: AsyncEngine | None = None
        self._checked_out: CheckedOut | None = None
        self._lock = asyncio.Lock()
        """Held by whoever uses the writer's connection."""
        self._worker = ""
        self._secret = b""
        self._jobs = SqlJobs(self)

    @property
    def _engine(self) -> AsyncEngine:
        # Ours is made in autocommit mode: to set it at each checkout costs SQLite a hop to the
        # driver's thread, and one to set it back.
        if self._made is not None:
            return self._made
        if self._given is None:
            raise StoreError(url=self.name, reason="it is not open")
        return self._given.execution_options(isolation_level="AUTOCOMMIT")

    @abstractmethod
    def inspection(self) -> Inspection:
        """A look at the same store that changes nothing of it, and needs no log that is open."""

    @abstractmethod
    async def vacuum(self) -> bool:
        """Give space that nothing is in back to the system, or to what is written next, in a
        bounded step where others would wait for it; whether there is more to do."""

    @abstractmethod
    async def _drop_writer(self) -> None:
        """Close the connection that writes, if there is one; the next batch makes another."""

    async def aclose(self) -> None:
        await self.wakeups.aclose()
        await self._running.ended(self._timeout)
        worker, self._worker = self._worker, ""
        if worker:
            # Where this fails a lock tells the others, or the lease.
            with contextlib.suppress(StoreError):
                await self.deregister(worker)
        async with self._lock:
            await self._drop_writer()
            made, self._made = self._made, None
        if self._checked_out is not None:
            await self._checked_out.take_back(self._timeout)
        if made is not None:
            await made.dispose()

    def _late(self) -> StoreError:
        """What whoever waits for a step with others hears in the end."""
        return StoreError(url=self.name, reason=f"no answer in {self._timeout:g} s")

    def _own(self, engine: AsyncEngine) -> None:
        """An engine of ours, which is closed with the log."""
        self._made, self._checked_out = engine, CheckedOut(engine)

    @property
    def secret(self) -> bytes:
        return self._secret

    def facts(self) -> StoreFacts:
        pool = self._made.pool if self._made is not None else None
        sizes = (pool.checkedout(), pool.size()) if isinstance(pool, QueuePool) else (None, None)
        return StoreFacts(migrations.NEWEST, *sizes)

    @property
    def sessions(self) -> SqlSessions:
        return self._sessions

    @property
    def inbox(self) -> SqlInbox:
        return self._inbox

    @property
    def jobs(self) -> SqlJobs:
        return self._jobs

    @property
    def journal(self) -> SqlJournal:
        return self._journal

    async def _prepare_schema(self) -> None:
        """Make the tables, or bring those that are there to this version.

        Raises:
            SchemaVersionError: a newer version has been here, and no older one may go on.
        """
        upgrade, seconds = Upgrade(self.name, self.tables), max(self._timeout, _LOOK_SECONDS)
        while True:
            # Several workers start at once; one makes the tables, the others find them.
            async with self._transaction(seconds) as connection:
                await self._make_room(connection)
                lacks = await upgrade.next(connection)
                if not lacks:
                    rows = await self._meta(connection)
                    await self._set_clock(connection, rows)
                    break
                if seconds == _STEP_SECONDS:
                    await upgrade.take(connection, lacks, self.now())
            seconds = _STEP_SECONDS
        self._secret = rows["secret"]

    async def _make_room(self, connection: AsyncConnection) -> None:
        """In the transaction that makes the tables: be alone in it."""

    async def _set_clock(self, connection: AsyncConnection, meta: Mapping[str, bytes]) -> None:
        """In that transaction: see what the time is in the store."""
        del meta
        if self._time_there is not None:
            began = time.monotonic()
            (told,) = (await connection.execute(select(self._time_there))).one()
            self._clock.learn(float(told), began)

    async def _meta(self, connection: AsyncConnection) -> dict[str, bytes]:
        meta = self.tables.meta
        rows = {row.name: row.value for row in await connection.execute(select(meta))}
        for name, value in (
            ("secret", secrets.token_bytes(32)),
            ("store", secrets.token_bytes(16)),
        ):
            if name not in rows:
                await connection.execute(insert(meta).values(name=name, value=value))
                rows[name] = value
        if (note := rows.pop(mirror.NAME, None)) is not None:
            mirror.check(self.name, meta.name, note)
            await connection.execute(delete(meta).where(meta.c.name == mirror.NAME))
        return rows

    async def read(self, stream: bytes, after: int, max_events: int, max_bytes: int) -> list[Event]:
        while True:
            page = await self._whole(self._read(stream, after, max_events, max_bytes))
            if not page.lost or self._readable(page):
                return page.events
            after = page.lost[-1][0]

    def _readable(self, page: RowPage) -> list[Event]:
        """What can be read of a page; what cannot is a gap in it."""
        if page.lost:
            telemetry.unreadable.add(len(page.lost), {"what": "event"})
            logger.warning(
                "MPM-STORE-12: %d events in %s are of a newer version", len(page.lost), self.name
            )
        return page.events

    async def written(self, stream: bytes, after: int = 0) -> Written:
        c = self.tables.event.c
        columns = func.max(c.sequence), func.count(), func.sum(func.length(c.payload))
        statement: Any = select(*columns).where(c.stream == stream, c.sequence > after)
        (found,) = await self.all(statement)
        last, events, size = tuple(found)
        return Written(last or after, events, int(size or 0))

    async def answers(self, stream: bytes, after: int = 0) -> Answers:
        last, page = await answers_after(self.all, self.tables, stream, after)
        return Answers(last, self._readable(page))

    @abstractmethod
    async def _read(self, stream: bytes, after: int, max_events: int, max_bytes: int) -> RowPage:
        """At most so many events after a number; at least one if there is one."""

    def worker_table(self) -> WorkerTable:
        engine = engine_of_its_own(self._engine)
        self._tune(engine)
        connection = OwnConnection(engine, self._timeout, self.name)
        return self._workers_over(connection)

    def _tune(self, engine: AsyncEngine) -> None:
        """Make an engine ready for heartbeats."""

    def _check_place(self) -> None:
        """Raise `StoreError` when the store is not where it was."""

    @property
    def _workers(self) -> SqlWorkers:
        return self._workers_over(self._connection)

    def _workers_over(self, connect: Begin | OwnConnection) -> SqlWorkers:
        table = self.tables.worker
        return SqlWorkers(connect, table, self._check_place, self._clock, self._time_there)

    async def workers(self) -> Mapping[str, Beat]:
        return await self._whole(self._workers.look())

    async def declare_dead(self, worker: str, counter: int) -> bool:
        return await self._whole(self._workers.declare_dead(worker, counter))

    async def deregister(self, worker: str) -> None:
        await self._whole(self._workers.deregister(worker))

    async def purge(self, now: float, max_events: int) -> Purged:
        return await self._whole(self._purge(now, max_events))

    @abstractmethod
    async def _purge(self, now: float, max_events: int) -> Purged:
        """One step of retention."""
