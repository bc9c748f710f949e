"""What a copy brings beside streams and events: rows that are compared with those of the target,
and written where they differ. So a copy that was stopped goes on there, and nothing comes twice."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Final

from mcp_persist_middleware.ops.copy.codecs import Recoder
from mcp_persist_middleware.ops.copy.rows import (
    EVERYTHING,
    Beside,
    Changes,
    Key,
    Row,
    Selection,
    is_kept,
    same,
)
from mcp_persist_middleware.ops.copy.store import Readable, Writable

# Sessions and jobs may have a request with them.
_PAGES: Final = {Beside.SESSION: 100, Beside.JOB: 100, Beside.JOURNAL: 1000}


class CopyingBeside:
    """Brings these tables.

    Args:
        apply: applies changes to the target.
    """

    def __init__(
        self,
        source: Readable,
        target: Writable,
        recoder: Recoder,
        apply: Callable[[Changes], Awaitable[object]],
    ) -> None:
        self._source, self._target = source, target
        self._recoder = recoder
        self._apply = apply

    async def bring(self, *, exact: bool) -> None:
        """Let the target have what the source has, as it is there now; unless it is to be exact, of
        the journal what is new alone: nothing in it ever changes."""
        for table in self._target.kept():
            is_whole = exact or table is not Beside.JOURNAL
            await self._come(table, is_whole=is_whole)
            if is_whole:
                await self._go(table)

    async def _come(self, table: Beside, *, is_whole: bool) -> None:
        async for rows in rows_of(self._source, table):
            now = await self._source.now()
            there = await self._target.find_rows(table, [table.key_of(row) for row in rows])
            changed = [
                self._recoder.row(table, row)
                for row in rows
                if is_kept(row, now) and not same(row, there.get(table.key_of(row)))
            ]
            if not (changed or is_whole):
                break
            changes = Changes()
            changes.add_rows(table, changed)
            await self._apply(changes)

    async def _go(self, table: Beside) -> None:
        async for rows in rows_of(self._target, table):
            now = await self._source.now()
            keys = [table.key_of(row) for row in rows]
            kept = await self._source.find_rows(table, keys)
            gone = [key for key in keys if key not in kept or not is_kept(kept[key], now)]
            await self._apply(Changes(gone_rows=[(table, key) for key in gone]))


async def rows_of(
    store: Readable, table: Beside, only: Selection = EVERYTHING
) -> AsyncIterator[Sequence[Row]]:
    """The rows of a table, page by page."""
    after: Key | None = None
    while rows := await store.rows(table, after, _PAGES[table], only):
        yield rows
        after = table.key_of(rows[-1])
