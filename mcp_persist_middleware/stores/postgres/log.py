"""The log in PostgreSQL: two connections that write, a few that read, one for wake-ups."""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import fields, replace
from typing import Any, TypeVar

from sqlalchemy import URL, ColumnElement, Double, Table, cast, extract, func, select, text, tuple_
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mcp_persist_middleware.errors import ConfigurationError, StoreError, StoreUnavailableError
from mcp_persist_middleware.log.base import Purged, StoreFacts
from mcp_persist_middleware.model import Outcome, StreamWrite, high_waters
from mcp_persist_middleware.stores.postgres import engine as postgres_engine
from mcp_persist_middleware.stores.postgres import hosts
from mcp_persist_middleware.stores.postgres.batch import PostgresBatch
from mcp_persist_middleware.stores.postgres.inbox import PostgresInbox, PostgresSessions, ShortWay
from mcp_persist_middleware.stores.postgres.inspection import PostgresInspection
from mcp_persist_middleware.stores.postgres.read import PostgresReads
from mcp_persist_middleware.stores.postgres.statements import PostgresStatements
from mcp_persist_middleware.stores.postgres.writers import WRITERS, WriteConnections
from mcp_persist_middleware.stores.sql.journal import SqlJournal
from mcp_persist_middleware.stores.sql.log import SqlLog
from mcp_persist_middleware.stores.sql.rows import RowPage
from mcp_persist_middleware.stores.sql.schema import quoted
from mcp_persist_middleware.stores.sql.turns import Turns
from mcp_persist_middleware.stores.sql.workers import engine_of_its_own, reason
from mcp_persist_middleware.wakeups.base import ANYTHING, Wakeups
from mcp_persist_middleware.wakeups.postgres import Notifications

T = TypeVar("T")

# Of the store's time-out: an attempt that a dead connection has swallowed leaves time for another,
# or for the wait before it.
_ATTEMPT = 0.4
_VACUUM_SECONDS = 86_400.0
# What rows take beside payloads, with their indexes (bytes).
_EVENT_ROW, _STREAM_ROW = 110, 500
_STANDBYS = """
SELECT count(sent_lsn), extract(epoch FROM max(replay_lag)) FROM pg_stat_replication
"""


class PostgresLog(SqlLog):
    """`EventLog` in a PostgreSQL database, shared by the workers of many hosts.

    What is committed survives what the server's `synchronous_commit` and `fsync` let it survive.
    """

    _exclusive = "BEGIN"
    _time_there = cast(extract("epoch", func.clock_timestamp()), Double)

    def __init__(
        self, url: URL, *, prefix: str, timeout: float, engine: AsyncEngine | None = None
    ) -> None:
        if engine is not None:
            postgres_engine.check_pool(engine)
        super().__init__(hosts.shown(url), prefix=prefix, timeout=timeout * _ATTEMPT, engine=engine)
        self._url = url
        self._lag: float | None = None
        self._plan = None if engine is not None else postgres_engine.plan(url, self._timeout)
        readers = postgres_engine.readers(engine)
        self._turns = Turns(readers, timeout - self._timeout, self.name)
        self._writers = WriteConnections(self._connect_raw)
        self._statements = PostgresStatements(self.tables)
        self._reads = PostgresReads(self._statements)
        self._wakeups = Notifications(prefix + "wake", self._connect_raw, self._timeout)
        shared = self._running, timeout, self._late
        way = ShortWay(self._statements, self.raw, self._wakeups, *shared)
        self._sessions, self._inbox = PostgresSessions(self, way), PostgresInbox(self, way)
        self._journal = SqlJournal(self)

    @property
    def durability(self) -> str:
        return "what is committed is as safe as the server's synchronous_commit and fsync make it"

    @property
    def max_in_flight(self) -> int:
        return WRITERS

    @property
    def wakeups(self) -> Wakeups:
        return self._wakeups

    def inspection(self) -> PostgresInspection:
        timeout, plan, given = self._timeout, self._plan, self._given
        return PostgresInspection(self._url, self.name, self.tables, timeout, plan, given)

    async def vacuum(self) -> bool:
        # Nobody waits for it, so it takes the time that it takes.
        async with self._connection(_VACUUM_SECONDS) as connection:
            for each in fields(self.tables):
                table = quoted(getattr(self.tables, each.name))
                await connection.exec_driver_sql(f"VACUUM (ANALYZE) {table}")
        return False

    def rows(self, table: Table, *conditions: ColumnElement[bool]) -> ColumnElement[bool]:
        key = list(table.primary_key.columns)
        locked = select(*key).where(*conditions).order_by(*key).with_for_update(key_share=True)
        return tuple_(*key).in_(locked) if len(key) > 1 else key[0].in_(locked)

    async def open(self, worker: str) -> None:
        try:
            if self._plan is not None and self._made is None:
                self._own(postgres_engine.make(self._plan, self._timeout))
            await self._prepare_schema()
            async with self._writers.one() as writer:
                driver = await writer.driver()
                await postgres_engine.check_session(driver, self._connect_raw, self._timeout)
            await self._workers.enrol(worker)
            self._worker = worker
            await self._wakeups.open()
        except ConfigurationError:
            await self.aclose()
            raise
        except (OSError, SQLAlchemyError, StoreError, *postgres_engine.DRIVER_ERRORS) as error:
            await self.aclose()
            cause = error.__cause__ or error
            if isinstance(error, StoreError) and error.__cause__ is None:
                raise
            fix = postgres_engine.remedy(getattr(cause, "orig", None) or cause, self._url)
            raise StoreUnavailableError(url=self.name, reason=reason(cause), fix=fix) from error

    def engine_of_its_own(self, timeout: float) -> AsyncEngine:
        """An engine for somebody who is no worker and takes longer, and who disposes of it."""
        if self._plan is None:
            return engine_of_its_own(self._engine)
        return postgres_engine.make(self._plan, timeout)

    async def _make_room(self, connection: AsyncConnection) -> None:
        key = text("SELECT pg_advisory_xact_lock(hashtext(:name))")
        await connection.execute(key, {"name": self.tables.meta.name})

    @contextlib.asynccontextmanager
    async def _connection(self, timeout: float = 0.0) -> AsyncIterator[AsyncConnection]:
        async with self._turns.one(), super()._connection(timeout) as connection:
            yield connection

    async def _connect_raw(self) -> tuple[AsyncConnection, Any]:
        """A connection to keep, as SQLAlchemy has it and as the driver has it."""
        connection = await self._engine.connect()
        raw = await connection.get_raw_connection()
        return connection, raw.driver_connection

    async def _drop_writer(self) -> None:
        await self._writers.aclose()

    async def ping(self) -> None:
        await self.append([])

    async def _check(self) -> None:
        await super()._check()
        # Nothing is seen of them without the rights of pg_monitor.
        seen, lag = await self._raw(lambda driver: driver.fetchrow(_STANDBYS))
        self._lag = float(lag or 0) if seen else None

    def facts(self) -> StoreFacts:
        return replace(super().facts(), replication_lag=self._lag)

    async def append(self, batch: Sequence[StreamWrite]) -> list[Outcome]:
        # Cancelled or not, the batch runs to its end, and the next one after it.
        return await self._whole(self._append(batch))

    async def _append(self, batch: Sequence[StreamWrite]) -> list[Outcome]:
        async with (
            postgres_engine.answering(self.name, self._timeout),
            self._writers.one() as writer,
        ):
            outcomes = await PostgresBatch(self._statements, await writer.driver())(batch)
        of_each = zip(batch, outcomes, strict=True)
        done = [write for write, outcome in of_each if outcome is Outcome.COMMITTED]
        if done:
            self._wakeups.publish([*(write.id for write in done), ANYTHING], high_waters(done))
        return outcomes

    async def raw(self, work: Callable[[Any], Awaitable[T]]) -> T:
        """Run a short piece of work on the driver's connection, to its end.

        Raises:
            StoreError: the store does not do it.
        """
        return await self._whole(self._raw(work))

    async def _raw(self, work: Callable[[Any], Awaitable[T]]) -> T:
        async with self._raw_connection() as driver:
            return await work(driver)

    @contextlib.asynccontextmanager
    async def _raw_connection(self) -> AsyncIterator[Any]:
        engine = self._engine
        async with (
            self._turns.one(),
            postgres_engine.answering(self.name, self._timeout),
            engine.connect() as connection,
        ):
            raw = await connection.get_raw_connection()
            try:
                yield raw.driver_connection
            except BaseException:
                # It may not go back into the pool in the middle of something.
                await postgres_engine.drop(connection)
                raise

    async def _row(self, stream: bytes) -> Any | None:
        return await self._raw(lambda driver: self._reads.row(driver, stream))

    async def _read(self, stream: bytes, after: int, max_events: int, max_bytes: int) -> RowPage:
        span = (stream, min(after, (1 << 63) - 1), max_events, max_bytes)
        return await self._raw(lambda driver: self._reads.page(driver, *span))

    async def _purge(self, now: float, max_events: int) -> Purged:
        return await self._raw(
            lambda driver: self._reads.purge(driver, now, self.held_from(), max_events)
        )

    async def _remove(self, streams: Sequence[bytes], max_events: int) -> Purged:
        return await self._raw(lambda driver: self._reads.remove(driver, streams, max_events))

    async def size(self) -> int:
        # Not that of the tables' files: they keep the room of what is removed.
        payload, stream = self.tables.event.c.payload, self.tables.stream
        taken = func.coalesce(func.sum(func.octet_length(payload) + _EVENT_ROW), 0)
        (events,) = await self._measured(select(taken.label("size")))
        (streams,) = await self._measured(
            select((func.count() * _STREAM_ROW).label("size")).select_from(stream)
        )
        return int(events.size) + int(streams.size)
