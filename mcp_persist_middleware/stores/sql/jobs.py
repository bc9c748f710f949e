"""The jobs in SQL: one statement for each operation but the one that has to count."""

import asyncio
from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import (
    ColumnElement,
    LargeBinary,
    Select,
    UpdateBase,
    and_,
    delete,
    exists,
    func,
    insert,
    literal,
    null,
    or_,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from mcp_persist_middleware.log.jobs import Jobs
from mcp_persist_middleware.log.whose import Whose
from mcp_persist_middleware.model import JobCreation, JobFace, JobRecord, Owner, Place
from mcp_persist_middleware.stores.sql.job_count import JobCount
from mcp_persist_middleware.stores.sql.listing import belonging
from mcp_persist_middleware.stores.sql.rows import reading
from mcp_persist_middleware.stores.sql.store import SqlStore

# A bound, how many have to go for it where that is known, and what it is a bound of.
_Bound = tuple[int, int | None, Sequence[ColumnElement[bool]]]

_TOGETHER = 500
# To count so many takes longer than to create one.
_MANY = 1000
# A stream that is not there has not begun yet, or has gone: which of the two, time tells (seconds).
_BEGINS = 60.0


class SqlJobs(Jobs):
    """`Jobs` in the tables of a `SqlStore`."""

    def __init__(self, store: SqlStore) -> None:
        self._store = store
        self._table = store.tables.job
        self._stream = store.tables.stream
        self._count = JobCount()
        self._counting = asyncio.Lock()

    def now(self) -> float:
        return self._store.now()

    async def create(self, job: JobRecord, most: int, most_of_one: int) -> JobCreation:
        try:
            excess = await self._excess(most)
            if not excess:
                # Mostly there is room, and nothing of the same key: that takes one statement.
                at_once = self._at_once(job, most if excess is None else None, most_of_one)
                if await self._store.execute(at_once) == 1:
                    return JobCreation.CREATED
            bounds = ((most_of_one, None, (self._table.c.account == job.account,)),)
            return await self._store.transact(
                lambda c: self._create(c, job, (*bounds, (most, excess, ())))
            )
        except IntegrityError:
            # Somebody was first by less than it takes to look.
            return JobCreation.TAKEN

    async def _excess(self, most: int) -> int | None:
        """How many of all have to go for a new one; None where counting them costs little."""
        if most < _MANY:
            return None
        excess = self._count.excess(most)
        if excess is not None:
            return excess
        # Of many who come at the same time one counts.
        async with self._counting:
            excess = self._count.excess(most)
            if excess is None:
                count = select(func.count().label("jobs")).select_from(self._table)
                found = await self._store.first(count)
                self._count = JobCount(most, found.jobs if found else most)
                excess = self._count.excess(most)
            return excess

    def _at_once(self, job: JobRecord, most: int | None, most_of_one: int) -> UpdateBase:
        c = self._table.c
        row = row_of(job)
        values = [literal(value, c[name].type) for name, value in row.items()]
        of_one = select(func.count()).select_from(self._table).where(c.account == job.account)
        free = [of_one.scalar_subquery() < most_of_one]
        if most is not None:
            of_all = select(func.count()).select_from(self._table)
            free.append(of_all.scalar_subquery() < most)
        if job.key:
            free.append(~exists().where(self._of_key(job.owner.place, job.key)))
        return insert(self._table).from_select(list(row), select(*values).where(*free))

    async def _create(
        self, connection: AsyncConnection, job: JobRecord, bounds: Sequence[_Bound]
    ) -> JobCreation:
        c = self._table.c
        if job.key:
            same = self._of_key(job.owner.place, job.key)
            late = self._store.rows(self._table, same, c.expires_at <= self.now())
            await connection.execute(delete(self._table).where(late))
            if (await connection.execute(select(c.id).where(same))).first() is not None:
                return JobCreation.TAKEN
        gone = 0
        for most, known, which in bounds:
            if known is None:
                count = select(func.count()).select_from(self._table).where(*which)
                excess = (await connection.execute(count)).scalar_one() + 1 - most
            else:
                excess = known - gone
            if excess > 0 and not await self._make_room(connection, excess, which):
                return JobCreation.FULL
            gone += max(0, excess)
        await connection.execute(insert(self._table).values(row_of(job)))
        return JobCreation.CREATED

    async def _make_room(
        self, connection: AsyncConnection, excess: int, which: Sequence[ColumnElement[bool]]
    ) -> bool:
        """Have so many go of some; false when not that many of them may."""
        ids = [row.id for row in await connection.execute(self._oldest(excess, which))]
        c = self._table.c
        for start in range(0, len(ids), _TOGETHER):
            gone = self._store.rows(self._table, c.id.in_(ids[start : start + _TOGETHER]))
            await connection.execute(delete(self._table).where(gone))
        return len(ids) == excess

    def _oldest(self, limit: int, which: Sequence[ColumnElement[bool]]) -> Select[Any]:
        """The oldest that have ended. Each is asked for its stream in their order, so that no more
        are looked at than it takes: a join would begin with all of them. Those that somebody else
        just removes make room for him."""
        c, s = self._table.c, self._stream.c
        is_over = select(s.ended_at.is_not(None)).where(s.id == c.stream).scalar_subquery()
        has_ended = func.coalesce(is_over, c.created_at <= self.now() - _BEGINS)
        return (
            select(c.id)
            .where(*which, or_(c.expires_at <= self.now(), has_ended))
            .order_by(c.id)
            .limit(limit)
            .with_for_update(of=self._table, skip_locked=True)
        )

    def _of_key(self, place: Place, key: str) -> ColumnElement[bool]:
        c = self._table.c
        # Said for the planner: the index holds no job without a key.
        return and_(c.namespace == place.namespace, c.path == place.path, c.key == key, c.key != "")

    async def find(self, job: bytes) -> JobRecord | None:
        row = await self._store.first(select(self._table).where(self._table.c.id == job))
        return None if row is None else self._of(row)

    async def find_key(self, place: Place, key: str) -> JobRecord | None:
        lives = self._table.c.expires_at > self.now()
        found = select(self._table).where(self._of_key(place, key), lives)
        row = await self._store.first(found)
        return None if row is None else self._of(row)

    async def of_streams(self, streams: Collection[bytes]) -> Sequence[JobRecord]:
        names = list(streams)
        # What may be large is left out, so that to look at every row is cheap.
        columns = self._small(request=null())
        found: list[JobRecord] = []
        for start in range(0, len(names), _TOGETHER):
            some = self._table.c.stream.in_(names[start : start + _TOGETHER])
            rows = await self._store.all(select(*columns).where(some))
            found += [self._of(row) for row in rows]
        return found

    def _small(self, request: ColumnElement[Any]) -> Sequence[ColumnElement[Any]]:
        """The columns of a record, without what it keeps of its client."""
        left_out: dict[str, ColumnElement[Any]] = {"request": request, "inputs": literal(b"")}
        return [left_out.get(c.name, c).label(c.name) for c in self._table.c]

    async def change(self, job: JobRecord) -> bool:
        c = self._table.c
        known = update(self._table).where(c.id == job.id, c.revision == job.revision)
        changed = known.values(
            worker=job.worker,
            stream=job.stream,
            updated_at=job.updated_at,
            expires_at=job.expires_at,
            round=job.round,
            inputs=job.inputs,
            revision=job.revision + 1,
        )
        return await self._store.execute(changed) == 1

    async def list(self, account: str | None, before: bytes, limit: int) -> Sequence[JobRecord]:
        c = self._table.c
        which = [] if account is None else [c.account == account]
        which += [c.id < before] if before else []
        newest = select(self._table).where(*which).order_by(c.id.desc()).limit(limit)
        return [self._of(row) for row in await self._store.all(newest)]

    async def remove(self, ids: Collection[bytes]) -> int:
        names, gone = list(ids), 0
        for start in range(0, len(names), _TOGETHER):
            some = self._table.c.id.in_(names[start : start + _TOGETHER])
            meant = self._store.rows(self._table, some)
            gone += await self._store.execute(delete(self._table).where(meant))
        return gone

    async def purge(self, now: float, limit: int) -> Sequence[JobRecord]:
        c = self._table.c
        late = select(c.id).where(c.expires_at <= now).order_by(c.expires_at).limit(limit)
        # One that is kept longer meanwhile stays.
        gone = self._store.rows(self._table, c.id.in_(late), c.expires_at <= now)
        # Whether there is one. SQLite 3.40 says of any column of a deleted row that it is not null.
        told = self._small(request=func.substr(c.request, 1, 0, type_=LargeBinary))
        rows = await self._store.all(delete(self._table).where(gone).returning(*told))
        return [self._of(row) for row in rows]

    async def forget(self, whose: Whose) -> int:
        c, gone = self._table.c, 0
        meant = select(c.id).where(*belonging(c, "session", whose)).limit(_TOGETHER)
        while ids := [row.id for row in await self._store.all(meant)]:
            gone += await self.remove(ids)
        return gone

    def _of(self, row: Any) -> JobRecord:
        with reading(self._store.name, "job"):
            return job_of(row)


def job_of(row: Any) -> JobRecord:
    """The record in a row of the job table.

    Raises:
        ValueError: it is of another version, or damaged.
    """
    return JobRecord(
        id=row.id,
        owner=Owner(row.namespace, row.path, row.session, row.principal),
        account=row.account,
        face=JobFace(row.face),
        worker=row.worker,
        tool=row.tool,
        stream=row.stream,
        request_id=row.request_id,
        created_at=row.created_at,
        updated_at=row.updated_at,
        expires_at=row.expires_at,
        key=row.key,
        arguments=row.arguments,
        request=row.request,
        round=row.round,
        inputs=row.inputs,
        revision=row.revision,
    )


def row_of(job: JobRecord) -> dict[str, Any]:
    """The values of a job's row, by column."""
    owner = job.owner
    return {
        "id": job.id,
        "namespace": owner.namespace,
        "path": owner.path,
        "session": owner.session,
        "principal": owner.principal,
        "account": job.account,
        "face": str(job.face),
        "worker": job.worker,
        "tool": job.tool,
        "stream": job.stream,
        "request_id": job.request_id,
        "created_at": job.created_at,
        "updated_at": job.updated_at,
        "expires_at": job.expires_at,
        "key": job.key,
        "arguments": job.arguments,
        "request": job.request,
        "round": job.round,
        "inputs": job.inputs,
        "revision": job.revision,
    }
