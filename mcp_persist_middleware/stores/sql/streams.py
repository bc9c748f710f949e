"""Streams as takeover and retention look for them: whose they are, who reads them, when they go."""

import contextlib
from abc import abstractmethod
from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import select, update

from mcp_persist_middleware.errors import UnreadableRowError
from mcp_persist_middleware.log.base import LastNumber
from mcp_persist_middleware.model import StreamRecord, StreamState
from mcp_persist_middleware.stores.sql.listing import SqlListing, last_numbers, numbers_of
from mcp_persist_middleware.stores.sql.rows import reading, record_of

_TOGETHER = 256


class SqlStreams(SqlListing):
    """The rows of streams."""

    async def find(self, stream: bytes) -> StreamRecord | None:
        row = await self._whole(self._row(stream))
        if row is None:
            return None
        with reading(self.name, "stream"):
            return record_of(row)

    @abstractmethod
    async def _row(self, stream: bytes) -> Any | None:
        """The row of a stream, its columns as attributes."""

    async def last_numbers(self, streams: Mapping[bytes, int]) -> Mapping[bytes, LastNumber]:
        names = list(streams)
        found: dict[bytes, LastNumber] = {}
        for start in range(0, len(names), _TOGETHER):
            part = names[start : start + _TOGETHER]
            found |= numbers_of(await self.all(last_numbers(self.tables, part)))
        return found

    async def renew_readers(self, streams: Collection[bytes], seconds: float) -> None:
        table, until = self.tables.stream, self.now() + seconds
        earlier = table.c.reader_until.is_(None) | (table.c.reader_until < until)
        is_open = table.c.state == int(StreamState.OPEN)
        statement = update(table).values(reader_until=until)
        names = list(streams)
        for start in range(0, len(names), _TOGETHER):
            of_part = table.c.id.in_(names[start : start + _TOGETHER])
            await self.execute(statement.where(self.rows(table, of_part, is_open, earlier)))

    async def reader_ttl(self, stream: bytes) -> float | None:
        row = await self._whole(self._row(stream))
        if row is None or row.reader_until is None:
            return None
        return float(row.reader_until) - self.now()

    async def active_writers(self) -> list[str]:
        return await self._whole(self._owners())

    async def _owners(self) -> list[str]:
        table = self.tables.stream
        of_open = select(table.c.worker).where(table.c.ended_at.is_(None)).distinct()
        async with self._connection() as connection:
            return [row.worker for row in await connection.execute(of_open)]

    async def open_streams_of(
        self, worker: str, limit: int, after: bytes = b""
    ) -> list[StreamRecord]:
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
            found = (await connection.execute(left)).all()
        records = []
        for row in found:
            # One that cannot be read keeps none of the others open.
            with contextlib.suppress(UnreadableRowError), reading(self.name, "stream"):
                records.append(record_of(row))
        if found and not records:
            return await self._left_by(worker, limit, found[-1].id)
        return records

    async def expire_session(self, namespace: str, path: str, session: str) -> None:
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
