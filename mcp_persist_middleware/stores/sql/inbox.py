"""Relayed requests between workers in SQL: every step is one conditional statement. Those that each
relayed request takes are in the words of a dialect."""

from collections.abc import Callable, Collection
from typing import Any

from sqlalchemy import delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from mcp_persist_middleware.log.parts import Inbox
from mcp_persist_middleware.model import (
    Certainty,
    RelayRequest,
    RelayRequestId,
    RelayState,
    RelayStatus,
    SessionKey,
)
from mcp_persist_middleware.stores.sql.rows import reading
from mcp_persist_middleware.stores.sql.store import SqlStore

_WAITING, _CLAIMED, _ANSWERED = (int(state) for state in RelayState)
_TOGETHER = 500


class SqlInbox(Inbox):
    """`Inbox` in the tables of a `SqlStore`: what every dialect shares."""

    def __init__(self, store: SqlStore) -> None:
        self._store = store
        self._table = store.tables.inbox
        self._worker = store.tables.worker

    def now(self) -> float:
        return self._store.now()

    async def publish(self, worker: str, public_key: bytes) -> None:
        mine = update(self._worker).where(self._worker.c.id == worker)
        await self._store.execute(mine.values(public_key=public_key))

    async def public_key(self, worker: str) -> bytes | None:
        row = await self._store.first(
            select(self._worker.c.public_key).where(self._worker.c.id == worker)
        )
        return None if row is None else row.public_key

    def _of(self, worker: str, state: int) -> tuple[Any, ...]:
        c = self._table.c
        return c.worker == worker, c.state == state

    async def claimed(self, worker: str) -> list[bytes]:
        rows = await self._store.all(select(self._table.c.id).where(*self._of(worker, _CLAIMED)))
        return [row.id for row in rows]

    async def renew(
        self, worker: str, requests: Collection[bytes], deadline: float
    ) -> Collection[bytes]:
        c = self._table.c
        # In one order: who answers some of them meanwhile locks them in the same.
        claimed = self._store.rows(
            self._table, c.id.in_(list(requests)), *self._of(worker, _CLAIMED)
        )
        mine = update(self._table).where(claimed)
        rows = await self._store.all(mine.values(deadline=deadline).returning(c.id))
        return [row.id for row in rows]

    async def withdraw(self, request: RelayRequestId) -> bool:
        c = self._table.c
        waiting = delete(self._table).where(c.id == request.id, c.state == _WAITING)
        return await self._store.execute(waiting) == 1

    async def tombstone(self, request: RelayRequestId, deadline: float, reply: bytes = b"") -> bool:
        # A row that is nobody's takes the key; whoever comes second fails.
        nobody = {"namespace": "", "path": "", "session": "", "worker": "", "generation": 0}
        empty = {"sealed": False, "content": b"", "reply": reply}
        row = {"id": request.id, "state": _ANSWERED, "deadline": deadline, **nobody, **empty}
        try:
            await self._store.execute(insert(self._table).values(row))
        except IntegrityError:
            return False
        return True

    def _status(self, state: int, worker: str, reply: bytes, deadline: float) -> RelayStatus:
        is_overdue = state == _CLAIMED and deadline < self.now()
        with reading(self._store.name, "relayed request"):
            certainty = Certainty.OVERDUE if is_overdue else Certainty.KNOWN
            return RelayStatus(RelayState(state), worker, reply, certainty)

    async def remove(self, requests: Collection[RelayRequestId]) -> None:
        ids = [request.id for request in requests]
        read = self._store.rows(self._table, self._table.c.id.in_(ids))
        await self._store.execute(delete(self._table).where(read))

    async def purge(self, now: float, limit: int) -> int:
        c = self._table.c
        late = select(c.id).where(c.deadline <= now).order_by(c.deadline).limit(limit)
        gone = self._store.rows(self._table, c.id.in_(late))
        return await self._store.execute(delete(self._table).where(gone))

    async def forget(self, is_meant: Callable[[SessionKey], bool], workers: Collection[str]) -> int:
        del workers
        c = self._table.c
        rows = await self._store.all(select(c.id, c.namespace, c.path, c.session))
        ids = [row.id for row in rows if is_meant(SessionKey(*tuple(row)[1:]))]
        parts = [ids[start : start + _TOGETHER] for start in range(0, len(ids), _TOGETHER)]
        meant = [self._store.rows(self._table, c.id.in_(part)) for part in parts]
        return sum([await self._store.execute(delete(self._table).where(each)) for each in meant])


def row_of(request: RelayRequest) -> dict[str, Any]:
    """The row of a relayed request that begins to wait."""
    key = request.key
    return {
        "id": request.id,
        "namespace": key.namespace,
        "path": key.path,
        "session": key.id,
        "worker": request.worker,
        "generation": request.generation,
        "state": _WAITING,
        "deadline": request.deadline,
        "sealed": request.sealed,
        "content": request.content,
        "reply": b"",
    }


def relay_request_of(row: Any, worker: str, generation: int) -> RelayRequest:
    """The relayed request in a row of the inbox."""
    key = SessionKey(row.namespace, row.path, row.session)
    return RelayRequest(row.id, key, worker, generation, row.deadline, row.content, row.sealed)
