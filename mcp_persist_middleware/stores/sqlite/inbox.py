"""The steps that every relayed request takes, each one hop to the driver's thread: through
SQLAlchemy each takes several, at 1 to 2 ms of the processor."""

import sqlite3
from collections.abc import Callable
from types import SimpleNamespace
from typing import Protocol, TypeVar

from mcp_persist_middleware.model import (
    EnqueueResult,
    RelayRequest,
    RelayRequestId,
    RelayState,
    RelayStatus,
    SessionKey,
    SessionRecord,
)
from mcp_persist_middleware.stores.sql.inbox import SqlInbox, relay_request_of, row_of
from mcp_persist_middleware.stores.sql.schema import quoted
from mcp_persist_middleware.stores.sql.sessions import SqlSessions
from mcp_persist_middleware.stores.sql.store import SqlStore

T = TypeVar("T")

_WAITING, _CLAIMED, _ANSWERED = (int(state) for state in RelayState)


class InThread(Protocol):
    """Runs a function with the raw connection, in the driver's thread."""

    async def __call__(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """What the function returns."""


class SqliteSessions(SqlSessions):
    """`SqlSessions` with a short way for the one read that routing needs."""

    def __init__(self, store: SqlStore, in_thread: InThread) -> None:
        super().__init__(store)
        self._in_thread = in_thread
        table = store.tables.session
        self._columns = [column.name for column in table.c]
        names = ", ".join(self._columns)
        self._find = (
            f"SELECT {names} FROM {quoted(table)} WHERE namespace = ? AND path = ? AND id = ?"
        )

    async def find(self, key: SessionKey) -> SessionRecord | None:
        row = await self._in_thread(lambda raw: raw.execute(self._find, key).fetchone())
        if row is None:
            return None
        return self._of(SimpleNamespace(**dict(zip(self._columns, row, strict=True))))


class SqliteInbox(SqlInbox):
    """`SqlInbox` with short ways."""

    def __init__(self, store: SqlStore, in_thread: InThread) -> None:
        super().__init__(store)
        self._in_thread = in_thread
        table = store.tables.inbox
        inbox, session = quoted(table), quoted(store.tables.session)
        self._columns = [column.name for column in table.c]
        names = ", ".join(self._columns)
        at_home = (
            f"SELECT 1 FROM {session} WHERE namespace = ? AND path = ? AND id = ?"
            " AND generation = ? AND home = ? AND NOT deleted"
        )
        waits = f"FROM {inbox} WHERE worker = ? AND state = {_WAITING}"
        marks = ", ".join("?" * len(self._columns))
        self._put = (
            f"INSERT INTO {inbox} ({names}) SELECT {marks} WHERE EXISTS ({at_home})"
            f" AND (SELECT count(*) FROM (SELECT 1 {waits} LIMIT ?)) < ?"
        )
        self._home = at_home
        self._waiting = f"SELECT {names} {waits} AND deadline > ? ORDER BY id LIMIT ?"
        self._claim = (
            f"UPDATE {inbox} SET state = {_CLAIMED}, content = x'', deadline = ? WHERE id = ?"
        )
        self._answer = (
            f"UPDATE {inbox} SET state = {_ANSWERED}, reply = ?, deadline = ?"
            f" WHERE id = ? AND worker = ? AND state = {_CLAIMED}"
        )
        self._look = f"SELECT state, worker, reply, deadline FROM {inbox} WHERE id = ?"

    async def put(self, request: RelayRequest, most: int) -> EnqueueResult:
        home = (*request.key, request.generation, request.worker)
        row = row_of(request)
        values = [row[name] for name in self._columns]

        def work(raw: sqlite3.Connection) -> EnqueueResult:
            if raw.execute(self._put, (*values, *home, request.worker, most, most)).rowcount == 1:
                return EnqueueResult.ENQUEUED
            found = raw.execute(self._home, home).fetchone()
            return EnqueueResult.MOVED if found is None else EnqueueResult.FULL

        return await self._in_thread(work)

    async def claim(
        self, worker: str, limit: int, now: float, deadline: float
    ) -> list[RelayRequest]:
        span = (worker, now, limit)

        def work(raw: sqlite3.Connection) -> list[tuple[object, ...]]:
            # Most looks find nothing, and need not ask for the file's one write lock.
            if raw.execute(self._waiting, (worker, now, 1)).fetchone() is None:
                return []
            raw.execute("BEGIN IMMEDIATE")
            try:
                found = raw.execute(self._waiting, span).fetchall()
                raw.executemany(self._claim, [(deadline, row[0]) for row in found])
                raw.execute("COMMIT")
            except BaseException:
                raw.execute("ROLLBACK")
                raise
            return found

        rows = await self._in_thread(work)
        claimed = [SimpleNamespace(**dict(zip(self._columns, row, strict=True))) for row in rows]
        return [relay_request_of(row, worker, row.generation) for row in claimed]

    async def answer(self, request: bytes, worker: str, reply: bytes, deadline: float) -> bool:
        values = (reply, deadline, request, worker)
        return await self._in_thread(lambda raw: raw.execute(self._answer, values).rowcount == 1)

    async def look(self, request: RelayRequestId) -> RelayStatus | None:
        row = await self._in_thread(lambda raw: raw.execute(self._look, (request.id,)).fetchone())
        return None if row is None else self._status(*row)
