"""The steps that every relayed request takes, each one statement on the driver's connection; and
the locks that a relayed request and a session that moves take, so that neither misses the other."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, Protocol, TypeVar

from sqlalchemy.dialects import postgresql

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
from mcp_persist_middleware.stores.sql.text import escape, unescape
from mcp_persist_middleware.wakeups.base import Wakeups

T = TypeVar("T")
_DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call]

_WAITING, _CLAIMED, _ANSWERED = (int(state) for state in RelayState)


class Raw(Protocol):
    """Runs a function with the driver's connection."""

    async def __call__(self, work: Callable[[Any], Awaitable[T]]) -> T:
        """What the function returns."""


class PostgresSessions(SqlSessions):
    """`SqlSessions` with a short way for the one read that routing needs.

    Args:
        wakeups: hears of what was committed to whom.
    """

    def __init__(self, store: SqlStore, raw: Raw, wakeups: Wakeups) -> None:
        super().__init__(store)
        self._raw = raw
        self._wakeups = wakeups
        names = ", ".join(column.name for column in self._table.c)
        self._find = (
            f"SELECT {names} FROM {quoted(self._table)}"
            " WHERE namespace = $1 AND path = $2 AND id = $3"
        )

    async def find(self, key: SessionKey) -> SessionRecord | None:
        row = await self._raw(lambda driver: driver.fetchrow(self._find, *map(escape, key)))
        return None if row is None else self._of(_plain(row))

    async def move(self, key: SessionKey, generation: int, home: str) -> bool:
        moved = await super().move(key, generation, home)
        if moved:
            self._wakeups.publish([home.encode()])
        return moved


class PostgresInbox(SqlInbox):
    """`SqlInbox` with short ways, which tell whom a relayed request concerns.

    Relayed requests that are put at the same moment do not see each other: so many more than `most`
    may wait as are put at once.
    """

    def __init__(self, store: SqlStore, raw: Raw, wakeups: Wakeups) -> None:
        super().__init__(store)
        self._raw = raw
        self._wakeups = wakeups
        table = self._table
        inbox, session = quoted(table), quoted(store.tables.session)
        self._columns = [column.name for column in table.c]
        names = ", ".join(self._columns)
        count = len(self._columns)
        marks = ", ".join(
            f"${n}::{column.type.compile(_DIALECT)}" for n, column in enumerate(table.c, 1)
        )
        key = f"namespace = ${count + 1} AND path = ${count + 2} AND id = ${count + 3}"
        # The lock lets a move wait for the relayed request, and a relayed request that waited see
        # the move.
        self._put = (
            f"WITH home AS MATERIALIZED (SELECT 1 FROM {session} WHERE {key}"
            f" AND generation = ${count + 4} AND home = ${count + 5} AND NOT deleted FOR SHARE),"
            f" waiting AS (SELECT count(*) AS requests FROM (SELECT 1 FROM {inbox}"
            f" WHERE worker = ${count + 5} AND state = {_WAITING} LIMIT ${count + 6}) AS part),"
            f" put AS (INSERT INTO {inbox} ({names}) SELECT {marks} FROM home, waiting"
            f" WHERE requests < ${count + 6} RETURNING 1)"
            " SELECT (SELECT count(*) FROM home), (SELECT count(*) FROM put)"
        )
        # A relayed request that somebody else is just taking, or taking elsewhere, is not waited
        # for.
        self._claim = (
            f"WITH mine AS MATERIALIZED (SELECT {names} FROM {inbox} WHERE worker = $1"
            f" AND state = {_WAITING} AND deadline > $2 ORDER BY id LIMIT $3"
            " FOR NO KEY UPDATE SKIP LOCKED),"
            f" claimed AS (UPDATE {inbox} AS i SET state = {_CLAIMED}, content = ''::bytea,"
            " deadline = $4 FROM mine WHERE i.id = mine.id RETURNING i.id)"
            " SELECT mine.* FROM mine JOIN claimed USING (id) ORDER BY id"
        )
        self._answer = (
            f"UPDATE {inbox} SET state = {_ANSWERED}, reply = $1, deadline = $2"
            f" WHERE id = $3 AND worker = $4 AND state = {_CLAIMED} RETURNING 1"
        )
        self._look = f"SELECT state, worker, reply, deadline FROM {inbox} WHERE id = $1"

    async def put(self, request: RelayRequest, most: int) -> EnqueueResult:
        key = SessionKey(*map(escape, request.key))
        row = row_of(replace(request, key=key))
        values = [row[name] for name in self._columns]
        values += [*key, request.generation, request.worker, most]
        home, put = await self._raw(lambda driver: driver.fetchrow(self._put, *values))
        if put:
            self._wakeups.publish([self.topic(request.worker)])
            return EnqueueResult.ENQUEUED
        return EnqueueResult.FULL if home else EnqueueResult.MOVED

    async def claim(
        self, worker: str, limit: int, now: float, deadline: float
    ) -> list[RelayRequest]:
        span = (worker, now, limit, deadline)
        rows = await self._raw(lambda driver: driver.fetch(self._claim, *span))
        claimed = [_plain(row) for row in rows]
        return [relay_request_of(row, worker, row.generation) for row in claimed]

    async def answer(self, request: bytes, worker: str, reply: bytes, deadline: float) -> bool:
        values = (reply, deadline, request, worker)
        row = await self._raw(lambda driver: driver.fetchrow(self._answer, *values))
        if row is not None:
            self._wakeups.publish([request])
        return row is not None

    async def look(self, request: RelayRequestId) -> RelayStatus | None:
        row = await self._raw(lambda driver: driver.fetchrow(self._look, request.id))
        return None if row is None else self._status(*row)


def _plain(row: Any) -> SimpleNamespace:
    """A row with its columns as attributes."""
    return SimpleNamespace(
        **{name: unescape(v) if isinstance(v, str) else v for name, v in row.items()}
    )
