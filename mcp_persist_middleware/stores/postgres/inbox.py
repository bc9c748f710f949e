"""The steps that every relayed request takes, each one statement on the driver's connection, where
they may those of one moment in one; and the locks that a relayed request and a session that moves
take, so that neither misses the other."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Protocol, TypeVar

import asyncpg

from mcp_persist_middleware.errors import StoreError
from mcp_persist_middleware.grouped import Grouped, Item, Result, tried
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
from mcp_persist_middleware.supervision import Tasks
from mcp_persist_middleware.wakeups.base import Wakeups

T = TypeVar("T")

# What is larger goes alone: those of one moment have one time limit, and one message to the server.
_LARGE = 64 * 1024


class _Reply(NamedTuple):
    """One reply."""

    id: bytes
    reply: bytes
    deadline: float
    worker: str


class Raw(Protocol):
    """Runs a function with the driver's connection."""

    async def __call__(self, work: Callable[[Any], Awaitable[T]]) -> T:
        """What the function returns."""


class ShortWay(NamedTuple):
    """What a step needs that goes past SQLAlchemy."""

    sql: PostgresStatements
    raw: Raw
    wakeups: Wakeups
    """Hear of what was committed to whom."""
    tasks: Tasks
    """Own the steps that are on their way."""
    seconds: float
    """How long anybody waits for one."""
    late: Callable[[], Exception]
    """What is raised then."""

    def grouped(
        self, step: Callable[[Sequence[Item]], Awaitable[Sequence[Result | Exception]]]
    ) -> Grouped[Item, Result]:
        """What gathers pieces for a step. One whose values the server does not take is an error of
        its own."""

        async def apart(items: Sequence[Item]) -> Sequence[Result | Exception]:
            try:
                return await step(items)
            except StoreError as error:
                if len(items) == 1 or not isinstance(error.__cause__, asyncpg.DataError):
                    raise
            found: list[Result | Exception] = []
            for item in items:
                try:
                    found += await step([item])
                except StoreError as error:
                    found.append(error)
            return found

        return Grouped(apart, self.tasks, self.seconds, self.late)


class PostgresSessions(SqlSessions):
    """`SqlSessions` with a short way for the one read that routing needs."""

    def __init__(self, store: SqlStore, way: ShortWay) -> None:
        super().__init__(store)
        self._way = way
        self._finds = way.grouped(self._find)

    async def find(self, key: SessionKey) -> SessionRecord | None:
        return await self._finds.run(key)

    async def _find(self, keys: Sequence[SessionKey]) -> list[SessionRecord | Exception | None]:
        columns = [list(map(escape, values)) for values in zip(*keys, strict=True)]
        rows = await self._way.raw(
            lambda driver: driver.fetch(self._way.sql.find_sessions, *columns)
        )
        found = {SessionKey(row.namespace, row.path, row.id): row for row in map(plain, rows)}
        return [tried(self._of, found[key]) if key in found else None for key in keys]

    async def move(self, key: SessionKey, generation: int, home: str) -> bool:
        moved = await super().move(key, generation, home)
        if moved:
            self._way.wakeups.publish([home.encode()])
        return moved


class PostgresInbox(SqlInbox):
    """`SqlInbox` with short ways, which tell whom a relayed request concerns.

    Relayed requests that two workers put at the same moment do not see each other: so many more
    than `most` may wait as are put at once.
    """

    def __init__(self, store: SqlStore, way: ShortWay) -> None:
        super().__init__(store)
        self._way = way
        self._puts = way.grouped(self._put_many)
        self._answers = way.grouped(self._answer)
        self._looks = way.grouped(self._look)

    async def put(self, request: RelayRequest, most: int) -> EnqueueResult:
        if len(request.content) > _LARGE:
            return await self._put_alone((request, most))
        enqueued = await self._puts.run((request, most))
        if enqueued is EnqueueResult.MOVED:
            # Or somebody is moving it: the others do not wait for that.
            enqueued = await self._put_alone((request, most))
        return enqueued

    async def _put_alone(self, put: tuple[RelayRequest, int]) -> EnqueueResult:
        (found,) = await self._put([put], self._way.sql.put)
        if isinstance(found, Exception):
            raise found
        return found

    async def _put_many(
        self, puts: Sequence[tuple[RelayRequest, int]]
    ) -> list[EnqueueResult | Exception]:
        return await self._put(puts, self._way.sql.put_many)

    async def _put(
        self, puts: Sequence[tuple[RelayRequest, int]], statement: str
    ) -> list[EnqueueResult | Exception]:
        keyed = [replace(each, key=SessionKey(*map(escape, each.key))) for each, _ in puts]
        rows = [row_of(each).values() for each in keyed]
        columns = [*map(list, zip(*rows, strict=True)), [most for _, most in puts]]
        is_taken_back = False

        async def insert(driver: Any) -> list[Any]:
            # It may have waited for a connection.
            return [] if is_taken_back else await driver.fetch(statement, *columns)

        try:
            found = await self._way.raw(insert)
        except asyncio.CancelledError:
            is_taken_back = True
            raise
        placed = {name: (has_room, is_put) for name, has_room, is_put in found}
        results = [self._result(placed.get(each.id)) for each in keyed]
        told = {self.topic(each.worker) for each in keyed if placed.get(each.id) == (True, True)}
        self._way.wakeups.publish(told)
        return results

    def _result(self, placed: tuple[bool, bool] | None) -> EnqueueResult | Exception:
        match placed:
            case None:
                return EnqueueResult.MOVED
            case (True, True):
                return EnqueueResult.ENQUEUED
            case (False, _):
                return EnqueueResult.FULL
            case _:
                return StoreError(url=self._store.name, reason="the id of the request is taken")

    async def claim(
        self, worker: str, limit: int, now: float, deadline: float
    ) -> list[RelayRequest]:
        span = (worker, now, limit, deadline)
        rows = await self._way.raw(lambda driver: driver.fetch(self._way.sql.claim, *span))
        claimed = map(plain, rows)
        return [relay_request_of(row, worker, row.generation) for row in claimed]

    async def answer(self, request: bytes, worker: str, reply: bytes, deadline: float) -> bool:
        mine = _Reply(request, reply, deadline, worker)
        if len(reply) > _LARGE:
            return (await self._way.tasks.whole(self._answer([mine])))[0]
        return await self._answers.run(mine, certain=True)

    async def _answer(self, answers: Sequence[_Reply]) -> list[bool]:
        columns = [list(values) for values in zip(*answers, strict=True)]
        rows = await self._way.raw(lambda driver: driver.fetch(self._way.sql.answer, *columns))
        answered = {row[0] for row in rows}
        self._way.wakeups.publish(answered)
        return [each.id in answered for each in answers]

    async def look(self, request: RelayRequestId) -> RelayStatus | None:
        found = await self._looks.run(request.id)
        # NULL: larger than what is read with others.
        if found is None or found.reply is not None:
            return found
        (found,) = await self._seen([request.id], math.inf)
        if isinstance(found, Exception):
            raise found
        return found

    async def _look(self, requests: Sequence[bytes]) -> list[RelayStatus | Exception | None]:
        return await self._seen(requests, _LARGE)

    async def _seen(
        self, requests: Sequence[bytes], largest: float
    ) -> list[RelayStatus | Exception | None]:
        look = self._way.sql.look
        rows = await self._way.raw(lambda driver: driver.fetch(look, requests, largest))
        found = {row[0]: row for row in rows}
        return [
            tried(self._status, *found[each][1:]) if each in found else None for each in requests
        ]
