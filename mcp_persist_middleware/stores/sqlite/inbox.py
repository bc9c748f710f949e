"""The steps that every relayed request takes, those of the same moment in one hop to the driver's
thread: through SQLAlchemy each takes several, at 1 to 2 ms of the processor."""

import sqlite3
from collections.abc import Callable
from typing import Protocol, TypeVar

from mcp_persist_middleware.model import (
    EnqueueResult,
    RelayRequest,
    RelayRequestId,
    RelayStatus,
    SessionKey,
    SessionRecord,
)
from mcp_persist_middleware.stores.sql.inbox import SqlInbox, relay_request_of, row_of
from mcp_persist_middleware.stores.sql.rows import named
from mcp_persist_middleware.stores.sql.sessions import SqlSessions
from mcp_persist_middleware.stores.sql.store import SqlStore
from mcp_persist_middleware.stores.sqlite.statements import SqliteStatements

T = TypeVar("T")


class InThread(Protocol):
    """Runs a function with the raw connection, in the driver's thread."""

    async def __call__(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """What the function returns."""


class Writing(Protocol):
    """The same, in one transaction with others."""

    async def __call__(
        self, work: Callable[[sqlite3.Connection], T], *, certain: bool = False
    ) -> T:
        """What the function returns. `certain`: whoever is cancelled has it done all the same."""


class SqliteSessions(SqlSessions):
    """`SqlSessions` with a short way for the one read that routing needs."""

    def __init__(self, store: SqlStore, statements: SqliteStatements, reading: InThread) -> None:
        super().__init__(store)
        self._sql = statements
        self._reading = reading

    async def find(self, key: SessionKey) -> SessionRecord | None:
        row = await self._reading(lambda raw: raw.execute(self._sql.find_session, key).fetchone())
        return None if row is None else self._of(named(self._table.c.keys(), row))


class SqliteInbox(SqlInbox):
    """`SqlInbox` with short ways."""

    def __init__(
        self, store: SqlStore, statements: SqliteStatements, reading: InThread, writing: Writing
    ) -> None:
        super().__init__(store)
        self._sql = statements
        self._reading = reading
        self._writing = writing

    async def put(self, request: RelayRequest, most: int) -> EnqueueResult:
        home = (*request.key, request.generation, request.worker)
        values = {**row_of(request), "most": most}

        def work(raw: sqlite3.Connection) -> EnqueueResult:
            if raw.execute(self._sql.put, values).rowcount == 1:
                return EnqueueResult.ENQUEUED
            found = raw.execute(self._sql.at_home, home).fetchone()
            return EnqueueResult.MOVED if found is None else EnqueueResult.FULL

        return await self._writing(work)

    async def claim(
        self, worker: str, limit: int, now: float, deadline: float
    ) -> list[RelayRequest]:
        span = (worker, now, limit)

        def is_idle(raw: sqlite3.Connection) -> bool:
            return raw.execute(self._sql.waiting, (worker, now, 1)).fetchone() is None

        def work(raw: sqlite3.Connection) -> list[tuple[object, ...]]:
            found = raw.execute(self._sql.waiting, span).fetchall()
            raw.executemany(self._sql.claim, [(deadline, row[0]) for row in found])
            return found

        # Most looks find nothing, and need not ask for the file's one write lock.
        rows = [] if await self._reading(is_idle) else await self._writing(work)
        columns = self._table.c.keys()
        claimed = [named(columns, row) for row in rows]
        return [relay_request_of(row, worker, row.generation) for row in claimed]

    async def answer(self, request: bytes, worker: str, reply: bytes, deadline: float) -> bool:
        values = (reply, deadline, request, worker)

        def work(raw: sqlite3.Connection) -> bool:
            return raw.execute(self._sql.answer, values).rowcount == 1

        return await self._writing(work, certain=True)

    async def look(self, request: RelayRequestId) -> RelayStatus | None:
        row = await self._reading(lambda raw: raw.execute(self._sql.look, (request.id,)).fetchone())
        return None if row is None else self._status(*row)
