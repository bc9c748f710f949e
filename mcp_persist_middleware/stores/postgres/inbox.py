"""The steps that every relayed request takes, each one statement on the driver's connection; and
the locks that a relayed request and a session that moves take, so that neither misses the other."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from mcp_persist_middleware.model import (
    EnqueueResult,
    RelayRequest,
    RelayRequestId,
    RelayStatus,
    SessionKey,
    SessionRecord,
)
from mcp_persist_middleware.stores.postgres.read import plain
from mcp_persist_middleware.stores.postgres.statements import PostgresStatements
from mcp_persist_middleware.stores.sql.inbox import SqlInbox, relay_request_of, row_of
from mcp_persist_middleware.stores.sql.sessions import SqlSessions
from mcp_persist_middleware.stores.sql.store import SqlStore
from mcp_persist_middleware.stores.sql.text import escape
from mcp_persist_middleware.wakeups.base import Wakeups

T = TypeVar("T")


class Raw(Protocol):
    """Runs a function with the driver's connection."""

    async def __call__(self, work: Callable[[Any], Awaitable[T]]) -> T:
        """What the function returns."""


class PostgresSessions(SqlSessions):
    """`SqlSessions` with a short way for the one read that routing needs.

    Args:
        wakeups: hears of what was committed to whom.
    """

    def __init__(
        self, store: SqlStore, statements: PostgresStatements, raw: Raw, wakeups: Wakeups
    ) -> None:
        super().__init__(store)
        self._sql = statements
        self._raw = raw
        self._wakeups = wakeups

    async def find(self, key: SessionKey) -> SessionRecord | None:
        row = await self._raw(
            lambda driver: driver.fetchrow(self._sql.find_session, *map(escape, key))
        )
        return None if row is None else self._of(plain(row))

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

    def __init__(
        self, store: SqlStore, statements: PostgresStatements, raw: Raw, wakeups: Wakeups
    ) -> None:
        super().__init__(store)
        self._sql = statements
        self._raw = raw
        self._wakeups = wakeups

    async def put(self, request: RelayRequest, most: int) -> EnqueueResult:
        key = SessionKey(*map(escape, request.key))
        row = row_of(replace(request, key=key))
        values = (*row.values(), most)
        home, put = await self._raw(lambda driver: driver.fetchrow(self._sql.put, *values))
        if put:
            self._wakeups.publish([self.topic(request.worker)])
            return EnqueueResult.ENQUEUED
        return EnqueueResult.FULL if home else EnqueueResult.MOVED

    async def claim(
        self, worker: str, limit: int, now: float, deadline: float
    ) -> list[RelayRequest]:
        span = (worker, now, limit, deadline)
        rows = await self._raw(lambda driver: driver.fetch(self._sql.claim, *span))
        claimed = map(plain, rows)
        return [relay_request_of(row, worker, row.generation) for row in claimed]

    async def answer(self, request: bytes, worker: str, reply: bytes, deadline: float) -> bool:
        values = (reply, deadline, request, worker)
        row = await self._raw(lambda driver: driver.fetchrow(self._sql.answer, *values))
        if row is not None:
            self._wakeups.publish([request])
        return row is not None

    async def look(self, request: RelayRequestId) -> RelayStatus | None:
        row = await self._raw(lambda driver: driver.fetchrow(self._sql.look, request.id))
        return None if row is None else self._status(*row)
