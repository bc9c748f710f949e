"""The journal in SQL: what every dialect shares."""

from collections.abc import Sequence
from dataclasses import fields
from operator import attrgetter
from typing import Any

from sqlalchemy import ColumnElement, Select, Table, bindparam, delete, or_, select, text
from sqlalchemy.engine import Row

from mcp_persist_middleware.log.journal import Journal, JournalEntry, Sought, earliest
from mcp_persist_middleware.log.whose import Whose
from mcp_persist_middleware.model import Owner
from mcp_persist_middleware.stores.sql.listing import belonging
from mcp_persist_middleware.stores.sql.schema import quoted
from mcp_persist_middleware.stores.sql.store import SqlStore

_FORGOTTEN = 1000
_OWNER = tuple(each.name for each in fields(Owner))
_values = attrgetter(
    *("id", "began", "first_event", "duration", "method", "tool", "version", "outcome", "error"),
    *("size", "resumes", "stream", *(f"owner.{name}" for name in _OWNER)),
    *("worker", "trace", "params"),
)


class SqlJournal(Journal):
    """`Journal` in a table of a `SqlStore`."""

    def __init__(self, store: SqlStore) -> None:
        self._store = store
        self._table = table = store.tables.journal
        self._beyond = ""
        """The newest entry that was found to be one too many; there may be more by now."""
        names = [column.name for column in table.columns]
        into = f"INSERT INTO {quoted(table)} ({', '.join(names)})"
        values = ", ".join(f":{name}" for name in names)
        typed = [bindparam(column.name, type_=column.type) for column in table.columns]
        self._insert = text(f"{into} VALUES ({values}) ON CONFLICT (id) DO NOTHING").bindparams(
            *typed
        )

    def now(self) -> float:
        return self._store.now()

    async def write(self, entries: Sequence[JournalEntry]) -> None:
        names = self._table.c.keys()
        rows = [dict(zip(names, row_of(entry), strict=True)) for entry in entries]
        if rows:
            await self._store.execute_many(self._insert, rows)

    async def find(self, sought: Sought, limit: int, *, before: str = "") -> Sequence[JournalEntry]:
        return entries_of(await self._store.all(newest(self._table, sought, limit, before)))

    async def purge(self, until: float, most: int, limit: int) -> int:
        c = self._table.c
        gone = await self._purge(or_(c.id < earliest(until), c.id <= self._beyond), limit)
        if gone < limit:
            # To count takes longer than to remove: not at each of many steps.
            newest_late = select(c.id).order_by(c.id.desc()).offset(most).limit(1)
            late = await self._store.first(newest_late)
            self._beyond = "" if late is None else late.id
            gone += await self._purge(c.id <= self._beyond, limit - gone)
        return gone

    async def _purge(self, is_late: ColumnElement[bool], limit: int) -> int:
        oldest = select(self._table.c.id).where(is_late).order_by(self._table.c.id).limit(limit)
        ids = [row.id for row in await self._store.all(oldest)]
        # What is late is all that is old enough.
        return await self._remove(self._table.c.id <= ids[-1]) if ids else 0

    async def forget(self, whose: Whose) -> int:
        c, gone = self._table.c, 0
        meant = select(c.id).where(*belonging(c, "session", whose)).limit(_FORGOTTEN)
        while ids := [row.id for row in await self._store.all(meant)]:
            gone += await self._remove(c.id.in_(ids))
        return gone

    async def _remove(self, which: ColumnElement[bool]) -> int:
        rows = self._store.rows(self._table, which)
        return await self._store.execute(delete(self._table).where(rows))


def row_of(entry: JournalEntry) -> tuple[Any, ...]:
    """The values of an entry's row, in the order of its columns."""
    row: tuple[Any, ...] = _values(entry)
    return row


def newest(table: Table, sought: Sought, limit: int, before: str = "") -> Select[Any]:
    """Asks for the newest entries that are meant."""
    c = table.c
    named = {
        name: value
        for name in ("tool", "outcome", "method", "session", "namespace")
        if (value := getattr(sought, name)) is not None
    }
    which = [c[name] == value for name, value in named.items()]
    if sought.slow is not None:
        which.append(c.duration >= sought.slow)
    if before:
        which.append(c.id < before)
    if sought.after:
        which.append(c.id > sought.after)
    return select(table).where(*which).order_by(c.id.desc()).limit(limit)


def entries_of(rows: Sequence[Row[Any]]) -> list[JournalEntry]:
    """What it finds."""
    return [
        JournalEntry(
            **{
                name: value
                for name, value in row._mapping.items()  # noqa: SLF001
                if name not in _OWNER
            },
            owner=Owner(*(getattr(row, name) for name in _OWNER)),
        )
        for row in rows
    ]
