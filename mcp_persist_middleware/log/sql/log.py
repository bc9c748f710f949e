"""The log in SQL: what every dialect shares. Hot writes are in the dialect's own file."""

import asyncio
import contextlib
import secrets
import time
from abc import abstractmethod
from collections.abc import Collection, Mapping
from typing import Any, TypeVar

from sqlalchemy import URL, func, insert, select, text, update
from sqlalchemy.engine import Row
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mcp_persist_middleware.errors import SchemaVersionError, StoreError
from mcp_persist_middleware.log import codec
from mcp_persist_middleware.log.base import EventLog, Purged
from mcp_persist_middleware.log.parts import WorkerTable
from mcp_persist_middleware.log.sql import schema
from mcp_persist_middleware.log.sql.inbox import SqlInbox
from mcp_persist_middleware.log.sql.sessions import SqlSessions
from mcp_persist_middleware.log.sql.store import SqlStore
from mcp_persist_middleware.log.sql.workers import (
    OwnConnection,
    SqlWorkers,
    engine_of_its_own,
)
from mcp_persist_middleware.model import (
    Beat,
    Event,
    EventKind,
    Owner,
    StreamKind,
    StreamRecord,
    StreamState,
)

T = TypeVar("T")

_ATTEND_STREAMS = 256
# Making the tables may take longer than a stream may wait.
_SCHEMA_SECONDS = 30.0


class SqlLog(SqlStore, EventLog):
    """Reads, retention and schema, and the life of the engine.

    Args:
        engine: somebody else's; never closed. Without one the dialect makes its own.
    """

    def __init__(
        self, url: URL, *, prefix: str, timeout: float, engine: AsyncEngine | None = None
    ) -> None:
        super().__init__(url, prefix=prefix, timeout=timeout)
        self._given = engine
        self._made: AsyncEngine | None = None
        self._lock = asyncio.Lock()
        """Held by whoever uses the writer's connection."""
        self._worker = ""
        self._sessions: SqlSessions = SqlSessions(self)
        self._inbox: SqlInbox = SqlInbox(self)
        self._secret = b""

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
    async def _drop_writer(self) -> None:
        """Close the connection that writes, if there is one; the next batch makes another."""

    async def aclose(self) -> None:
        await self.wakeups.aclose()
        if self._running:
            await asyncio.wait(self._running, timeout=self._timeout)
        worker, self._worker = self._worker, ""
        if worker:
            # Where this fails a lock tells the others, or the lease.
            with contextlib.suppress(StoreError):
                await self.dismiss(worker)
        async with self._lock:
            await self._drop_writer()
            made, self._made = self._made, None
        if made is not None:
            await made.dispose()

    @property
    def secret(self) -> bytes:
        return self._secret

    @property
    def sessions(self) -> SqlSessions:
        return self._sessions

    @property
    def inbox(self) -> SqlInbox:
        return self._inbox

    async def _prepare_schema(self) -> None:
        """Make the tables, or check that the ones that are there are ours.

        Raises:
            SchemaVersionError: a newer library has been here.
        """
        async with self._connection(max(self._timeout, _SCHEMA_SECONDS)) as connection:
            # Several workers start at once; one makes the tables, the others find them.
            await connection.execute(text(self._exclusive))
            try:
                await self._make_room(connection)
                await connection.run_sync(self.tables.metadata.create_all)
                rows = await self._meta(connection)
                await connection.execute(text("COMMIT"))
            except BaseException:
                # It may not go back into the pool with its transaction open.
                await connection.invalidate()
                raise
        found = int(rows["version"])
        if found > schema.VERSION:
            raise SchemaVersionError(url=self.name, found=found, known=schema.VERSION)
        self._secret = rows["secret"]

    async def _make_room(self, connection: AsyncConnection) -> None:
        """In the transaction that makes the tables: be alone in it."""

    async def _meta(self, connection: AsyncConnection) -> dict[str, bytes]:
        meta = self.tables.meta
        rows = {row.name: row.value for row in await connection.execute(select(meta))}
        for name, value in (
            ("version", str(schema.VERSION).encode()),
            ("secret", secrets.token_bytes(32)),
            ("store", secrets.token_bytes(16)),
        ):
            if name not in rows:
                await connection.execute(insert(meta).values(name=name, value=value))
                rows[name] = value
        return rows

    async def find(self, stream: bytes) -> StreamRecord | None:
        row = await self._whole(self._row(stream))
        return None if row is None else record_of(row)

    async def _row(self, stream: bytes) -> Any | None:
        """The row of a stream, its columns as attributes."""
        table = self.tables.stream
        async with self._connection() as connection:
            return (await connection.execute(select(table).where(table.c.id == stream))).first()

    async def read(self, stream: bytes, after: int, max_events: int, max_bytes: int) -> list[Event]:
        return await self._whole(self._read(stream, after, max_events, max_bytes))

    async def _read(
        self, stream: bytes, after: int, max_events: int, max_bytes: int
    ) -> list[Event]:
        table = self.tables.event
        of_stream = (table.c.stream == stream, table.c.sequence > after)
        sizes = (
            select(table.c.sequence, func.length(table.c.payload))
            .where(*of_stream)
            .order_by(table.c.sequence)
            .limit(max_events)
        )
        async with self._connection() as connection:
            last, total = after, 0
            for sequence, size in await connection.execute(sizes):
                total += size
                if total > max_bytes and last > after:
                    break
                last = sequence
            if last == after:
                return []
            rows = await connection.execute(
                select(table).where(*of_stream, table.c.sequence <= last).order_by(table.c.sequence)
            )
            return [_event(row) for row in rows]

    async def attend(self, streams: Collection[bytes], seconds: float) -> None:
        table, until = self.tables.stream, time.time() + seconds
        earlier = table.c.reader_until.is_(None) | (table.c.reader_until < until)
        is_open = table.c.state == int(StreamState.OPEN)
        statement = update(table).values(reader_until=until)
        names = list(streams)
        for start in range(0, len(names), _ATTEND_STREAMS):
            of_part = table.c.id.in_(names[start : start + _ATTEND_STREAMS])
            await self.execute(statement.where(self.rows(table, of_part, is_open, earlier)))

    async def attended(self, stream: bytes) -> float | None:
        row = await self._whole(self._row(stream))
        if row is None or row.reader_until is None:
            return None
        return float(row.reader_until) - time.time()

    def worker_table(self) -> WorkerTable:
        engine = engine_of_its_own(self._engine)
        self._tune(engine)
        connection = OwnConnection(engine, self._timeout, self.name)
        return SqlWorkers(connection, self.tables.worker, self._check_place)

    def _tune(self, engine: AsyncEngine) -> None:
        """Make an engine ready for heartbeats."""

    def _check_place(self) -> None:
        """Raise `StoreError` when the store is not where it was."""

    @property
    def _workers(self) -> SqlWorkers:
        return SqlWorkers(self._connection, self.tables.worker, self._check_place)

    async def workers(self) -> Mapping[str, Beat]:
        return await self._whole(self._workers.look())

    async def declare_dead(self, worker: str, counter: int) -> bool:
        return await self._whole(self._workers.declare_dead(worker, counter))

    async def dismiss(self, worker: str) -> None:
        await self._whole(self._workers.dismiss(worker))

    async def owners(self) -> list[str]:
        return await self._whole(self._owners())

    async def _owners(self) -> list[str]:
        table = self.tables.stream
        of_open = select(table.c.worker).where(table.c.ended_at.is_(None)).distinct()
        async with self._connection() as connection:
            return [row.worker for row in await connection.execute(of_open)]

    async def left_by(self, worker: str, limit: int, after: bytes = b"") -> list[StreamRecord]:
        return await self._whole(self._left_by(worker, limit, after))

    async def _left_by(self, worker: str, limit: int, after: bytes) -> list[StreamRecord]:
        table = self.tables.stream
        left = (
            select(table)
            .where(table.c.ended_at.is_(None), table.c.worker == worker, table.c.id > after)
            .order_by(table.c.id)
            .limit(limit)
        )
        async with self._connection() as connection:
            return [record_of(row) for row in await connection.execute(left)]

    async def forget_session(self, namespace: str, path: str, session: str) -> None:
        table = self.tables.stream
        of_session = (
            # Said for the planner: the index holds no stream without a session.
            table.c.session != "",
            table.c.session == session,
            table.c.namespace == namespace,
            table.c.path == path,
        )
        await self.execute(
            update(table).where(self.rows(table, *of_session)).values(expires_at=0.0)
        )

    async def purge(self, now: float, max_events: int) -> Purged:
        return await self._whole(self._purge(now, max_events))

    @abstractmethod
    async def _purge(self, now: float, max_events: int) -> Purged:
        """One step of retention."""


def record_of(row: Any) -> StreamRecord:
    """The record in a row of the stream table."""
    return StreamRecord(
        id=row.id,
        kind=StreamKind(row.kind),
        owner=Owner(row.namespace, row.path, row.session, row.principal),
        epoch=row.epoch,
        state=StreamState(row.state),
        last_sequence=row.last_sequence,
        worker=row.worker,
        created_at=row.created_at,
        ended_at=row.ended_at,
        expires_at=row.expires_at,
        request_ids=row.request_ids,
        trace=row.trace,
        request=row.request,
    )


def _event(row: Row[Any]) -> Event:
    kind = EventKind(row.kind)
    return Event(row.sequence, row.epoch, kind, codec.decode(row.codec, row.payload))
