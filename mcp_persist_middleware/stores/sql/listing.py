"""Streams in the order of their age, and the removal of some of them: what every dialect shares."""

import contextlib
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Select,
    Table,
    and_,
    case,
    delete,
    false,
    func,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.engine import Row

from mcp_persist_middleware.errors import UnreadableRowError
from mcp_persist_middleware.log.base import EventLog, LastNumber, Purged
from mcp_persist_middleware.log.deletions import MOST, Deletion, Reason
from mcp_persist_middleware.log.whose import Whose
from mcp_persist_middleware.model import EARLY, UNSURE, EventKind, StreamRecord
from mcp_persist_middleware.stores.sql.rows import RowPage, page_of, reading, record_of
from mcp_persist_middleware.stores.sql.schema import Tables
from mcp_persist_middleware.stores.sql.store import SqlStore

_MEASURE_SECONDS = 60.0
_HELD_SECONDS = 120.0


class SqlListing(SqlStore, EventLog):
    """What an `EventLog` need not have."""

    def held_from(self) -> float:
        """What has ended since then in a session that its client deleted is still kept: official
        clients delete their session when they close, and who follows has not read all of it yet."""
        return self.now() - _HELD_SECONDS

    async def streams(
        self, after: bytes, limit: int, *, newest_first: bool = False
    ) -> Sequence[StreamRecord]:
        return await self._listed(after, limit, newest_first=newest_first)

    async def streams_of(self, whose: Whose, after: bytes, limit: int) -> Sequence[StreamRecord]:
        return await self._listed(after, limit, *belonging(self.tables.stream.c, "session", whose))

    async def ids_of(self, whose: Whose, after: bytes, limit: int) -> Sequence[bytes]:
        c = self.tables.stream.c
        meant = select(c.id).where(*belonging(c, "session", whose), c.id > after)
        return [bytes(row.id) for row in await self.all(meant.order_by(c.id).limit(limit))]

    async def _listed(
        self, after: bytes, limit: int, *which: ColumnElement[bool], newest_first: bool = False
    ) -> list[StreamRecord]:
        key = self.tables.stream.c.id
        order = key.desc() if newest_first else key
        wanted = select(self.tables.stream).where(*which).order_by(order).limit(limit)
        records: list[StreamRecord] = []
        while not records:
            behind = (key < after if newest_first else key > after,) if after else ()
            if not (rows := await self.all(wanted.where(*behind))):
                break
            for row in rows:
                with contextlib.suppress(UnreadableRowError), reading(self.name, "stream"):
                    records.append(record_of(row))
            # A page of which nothing can be read is not the last one.
            after = rows[-1].id
        return records

    async def remove(
        self, streams: Collection[bytes], max_events: int, *, ended: bool = False
    ) -> Purged:
        table, names = self.tables.stream, list(streams)
        meant = [table.c.id.in_(names), *([table.c.ended_at.is_not(None)] if ended else [])]
        await self.execute(update(table).where(self.rows(table, *meant)).values(expires_at=0.0))
        return await self._whole(self._remove(names, max_events))

    @abstractmethod
    async def _remove(self, streams: Sequence[bytes], max_events: int) -> Purged:
        """One step of the removal of streams that nobody may read any more."""

    async def namespaces(self) -> Collection[str]:
        names = select(self.tables.stream.c.namespace).distinct()
        return [row.namespace for row in await self._measured(names)]

    async def beyond(self, namespace: str, most: int, *, in_bytes: bool = False) -> bytes:
        stream, event = self.tables.stream.c, self.tables.event.c
        ended = stream.namespace == namespace, stream.ended_at.is_not(None)
        if not in_bytes:
            last = select(stream.id).where(*ended).order_by(stream.id.desc()).offset(most)
        else:
            size = func.sum(func.length(event.payload)).label("size")
            of = self.tables.stream.join(self.tables.event, event.stream == stream.id)
            each = select(stream.id, size).select_from(of).where(*ended).group_by(stream.id)
            sized = each.subquery().c
            total = func.sum(sized.size).over(order_by=sized.id.desc()).label("total")
            summed = select(sized.id, total).subquery().c
            last = select(summed.id).where(summed.total > most).order_by(summed.id.desc())
        found = await self._measured(last.limit(1))
        return bytes(found[0].id) if found else b""

    async def _measured(self, statement: Any) -> Sequence[Row[Any]]:
        """The rows of a look at all of a table, which may take its time."""
        return await self._whole(self._all(statement, _MEASURE_SECONDS))

    async def note_deletions(self, deletions: Sequence[Deletion]) -> None:
        table = self.tables.deletion
        rows = [
            {
                "id": each.key(),
                "at": each.at,
                "reason": str(each.reason),
                "namespace": each.namespace,
                "kind": each.kind,
                "number": each.count,
            }
            for each in deletions
        ]
        oldest = select(table.c.id).order_by(table.c.id.desc()).offset(MOST).limit(1)
        late = self.rows(table, table.c.id <= oldest.scalar_subquery())
        await self.execute_together(insert(table).values(rows), delete(table).where(late))

    async def deletions(self, limit: int) -> Sequence[Deletion]:
        return deletions_of(await self.all(newest_deletions(self.tables.deletion, limit)))


def last_numbers(tables: Tables, streams: Sequence[bytes]) -> Select[Any]:
    """Asks how far streams are."""
    s, e = tables.stream.c, tables.event.c
    # One step in the index for each that is open, however long it is.
    newest = select(func.max(e.sequence)).where(e.stream == s.id).scalar_subquery()
    last = case((s.ended_at.is_(None), newest), else_=s.last_sequence).label("last")
    return select(s.id, last, s.ended_at, s.epoch).where(s.id.in_(streams))


async def answers_after(
    read: Callable[[Select[Any]], Awaitable[Sequence[Row[Any]]]],
    tables: Tables,
    stream: bytes,
    after: int,
) -> tuple[int, RowPage]:
    """What a stream has answered after a number, and the number of its last event by then."""
    c = tables.event.c
    newest = select(func.max(c.sequence)).where(c.stream == stream, c.sequence > after)
    answers = (
        select(c.sequence, c.epoch, c.kind, c.codec, c.payload)
        .where(c.stream == stream, c.sequence > after, c.kind >= int(EventKind.RESPONSE))
        .order_by(c.sequence)
    )
    # First: what is written meanwhile is above this number, and looked for.
    ((last,),) = await read(newest)
    return last or after, page_of(tuple(row) for row in await read(answers))


def numbers_of(rows: Sequence[Row[Any]]) -> dict[bytes, LastNumber]:
    """What it finds."""
    return {bytes(r.id): LastNumber(r.last or 0, r.ended_at is None, r.epoch) for r in rows}


def newest_deletions(table: Table, limit: int) -> Select[Any]:
    """Asks for the newest notes of what was removed."""
    c = table.c
    columns = (c.at, c.reason, c.namespace, c.kind, c.number)
    return select(*columns).order_by(c.id.desc()).limit(limit)


def deletions_of(rows: Sequence[Row[Any]]) -> list[Deletion]:
    """What it finds."""
    return [Deletion(e.at, Reason(e.reason), e.namespace, e.kind, e.number) for e in rows]


def belonging(columns: Any, session: str, whose: Whose) -> list[ColumnElement[bool]]:
    """The conditions under which a row is somebody's; `session` is the column with its id."""
    given = []
    if whose.principals is not None:
        c = columns.principal
        names = [begins + name for name in whose.principals for begins in ("", EARLY)]
        unsure = [c.startswith(name + UNSURE, autoescape=True) for name in names]
        given.append(or_(false(), c.in_(names), *unsure))
    if whose.session is not None:
        given.append(and_(columns[session] != "", columns[session] == whose.session))
    if whose.namespace is not None:
        given.append(columns.namespace == whose.namespace)
    return given
