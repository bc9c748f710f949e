"""Relayed requests between workers in SQL: every step is one conditional statement."""

from collections.abc import Collection
from typing import Any

from sqlalchemy import (
    Select,
    and_,
    delete,
    exists,
    func,
    insert,
    literal,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError

from mcp_persist_middleware.errors import StoreError
from mcp_persist_middleware.log.parts import Inbox
from mcp_persist_middleware.model import (
    Certainty,
    EnqueueResult,
    RelayRequest,
    RelayRequestId,
    RelayState,
    RelayStatus,
    SessionKey,
)
from mcp_persist_middleware.stores.sql.rows import reading
from mcp_persist_middleware.stores.sql.store import SqlStore

_WAITING, _CLAIMED, _ANSWERED = (int(state) for state in RelayState)


class SqlInbox(Inbox):
    """`Inbox` in the tables of a `SqlStore`."""

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

    async def put(self, request: RelayRequest, most: int) -> EnqueueResult:
        values = row_of(request)
        c = self._table.c
        row = [literal(value, type_=c[name].type) for name, value in values.items()]
        some = select(c.id).where(*self._of(request.worker, _WAITING)).limit(most).subquery()
        waiting = select(func.count()).select_from(some).scalar_subquery()
        allowed = select(*row).where(exists(self._at_home(request)), waiting < most)
        try:
            put = await self._store.execute(insert(self._table).from_select(list(values), allowed))
        except IntegrityError as error:
            raise StoreError(
                url=self._store.name, reason="the relayed request was tombstoned"
            ) from error
        if put:
            return EnqueueResult.ENQUEUED
        found = await self._store.first(self._at_home(request))
        return EnqueueResult.MOVED if found is None else EnqueueResult.FULL

    def _at_home(self, request: RelayRequest) -> Select[Any]:
        c = self._store.tables.session.c
        key = request.key
        return select(c.home).where(
            c.namespace == key.namespace,
            c.path == key.path,
            c.id == key.id,
            c.generation == request.generation,
            c.home == request.worker,
            c.deleted.is_(False),
        )

    def _of(self, worker: str, state: int) -> tuple[Any, ...]:
        c = self._table.c
        return c.worker == worker, c.state == state

    async def claim(
        self, worker: str, limit: int, now: float, deadline: float
    ) -> list[RelayRequest]:
        c = self._table.c
        mine = (*self._of(worker, _WAITING), c.deadline > now)
        seen = {
            row.id: row
            for row in await self._store.all(
                select(self._table).where(*mine).order_by(c.id).limit(limit)
            )
        }
        if not seen:
            return []
        claimed = (
            update(self._table)
            .where(c.id.in_(list(seen)), *mine)
            .values(state=_CLAIMED, content=b"", deadline=deadline)
            .returning(c.id, c.generation)
        )
        won = {row.id: row.generation for row in await self._store.all(claimed)}
        return [relay_request_of(seen[each], worker, won[each]) for each in sorted(won)]

    async def claimed(self, worker: str) -> list[bytes]:
        rows = await self._store.all(select(self._table.c.id).where(*self._of(worker, _CLAIMED)))
        return [row.id for row in rows]

    async def renew(
        self, worker: str, requests: Collection[bytes], deadline: float
    ) -> Collection[bytes]:
        c = self._table.c
        mine = update(self._table).where(c.id.in_(list(requests)), *self._of(worker, _CLAIMED))
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

    async def answer(self, request: bytes, worker: str, reply: bytes, deadline: float) -> bool:
        c = self._table.c
        mine = and_(c.id == request, c.worker == worker, c.state == _CLAIMED)
        answered = update(self._table).where(mine)
        answered = answered.values(state=_ANSWERED, reply=reply, deadline=deadline)
        return await self._store.execute(answered) == 1

    async def look(self, request: RelayRequestId) -> RelayStatus | None:
        c = self._table.c
        columns = c.state, c.worker, c.reply, c.deadline
        row = await self._store.first(select(*columns).where(c.id == request.id))
        if row is None:
            return None
        return self._status(row.state, row.worker, row.reply, row.deadline)

    def _status(self, state: int, worker: str, reply: bytes, deadline: float) -> RelayStatus:
        is_overdue = state == _CLAIMED and deadline < self.now()
        with reading(self._store.name, "letter"):
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
