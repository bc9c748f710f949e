"""Streams in the order of their age, and the removal of some of them: what every dialect shares."""

import contextlib
from abc import abstractmethod
from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import ColumnElement, and_, false, or_, select, update

from mcp_persist_middleware.errors import UnreadableRowError
from mcp_persist_middleware.log.base import EventLog, Purged
from mcp_persist_middleware.log.whose import Whose
from mcp_persist_middleware.model import EARLY, UNSURE, StreamRecord
from mcp_persist_middleware.stores.sql.rows import reading, record_of
from mcp_persist_middleware.stores.sql.store import SqlStore


class SqlListing(SqlStore, EventLog):
    """What an `EventLog` need not have."""

    async def streams(
        self, after: bytes, limit: int, *, newest_first: bool = False
    ) -> Sequence[StreamRecord]:
        return await self._listed(after, limit, newest_first=newest_first)

    async def streams_of(self, whose: Whose, after: bytes, limit: int) -> Sequence[StreamRecord]:
        return await self._listed(after, limit, *belonging(self.tables.stream.c, "session", whose))

    async def _listed(
        self, after: bytes, limit: int, *which: ColumnElement[bool], newest_first: bool = False
    ) -> list[StreamRecord]:
        key = self.tables.stream.c.id
        behind = (key < after if newest_first else key > after,) if after else ()
        order = key.desc() if newest_first else key
        rows = await self.all(
            select(self.tables.stream).where(*which, *behind).order_by(order).limit(limit)
        )
        records = []
        for row in rows:
            with contextlib.suppress(UnreadableRowError), reading(self.name, "stream"):
                records.append(record_of(row))
        if rows and not records:
            return await self._listed(rows[-1].id, limit, *which, newest_first=newest_first)
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
