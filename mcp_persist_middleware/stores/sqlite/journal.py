"""The journal in a SQLite file: a few rows at a time go in as one statement between two batches of
events, which wait for it no longer than for each other."""

import sqlite3
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from mcp_persist_middleware.log.journal import JournalEntry
from mcp_persist_middleware.stores.sql.journal import SqlJournal, row_of
from mcp_persist_middleware.stores.sql.store import SqlStore
from mcp_persist_middleware.stores.sqlite.statements import SqliteStatements

T = TypeVar("T")

# Two sizes, so that two statements serve every write.
_ROWS, _FEW = 32, 4


class InTurn(Protocol):
    """Runs a function with the raw connection that writes, in turn with whatever else writes."""

    async def __call__(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """What the function returns."""


class SqliteJournal(SqlJournal):
    """`SqlJournal` with a short way for what is written all the time."""

    def __init__(self, store: SqlStore, statements: SqliteStatements, in_turn: InTurn) -> None:
        super().__init__(store)
        self._columns = len(self._table.columns)
        self._in_turn = in_turn
        self._notes = {rows: statements.note_rows(rows, self._columns) for rows in (_ROWS, _FEW)}

    async def write(self, entries: Sequence[JournalEntry]) -> None:
        values = [row_of(entry) for entry in entries]
        while values:
            rows = _ROWS if len(values) > _FEW else _FEW
            part, values = values[:rows], values[rows:]
            flat = [value for row in part for value in row]
            flat += [None] * (rows * self._columns - len(flat))
            statement = self._notes[rows]

            def work(
                raw: sqlite3.Connection, statement: str = statement, flat: list[object] = flat
            ) -> None:
                raw.execute(statement, flat)

            await self._in_turn(work)
