"""What an operator asks a store about the payloads beside its events: how each is written."""

from abc import ABC
from collections.abc import AsyncIterator
from typing import Any

from sqlalchemy import Column, ColumnElement, Table, func, literal, select, tuple_

from mcp_persist_middleware.stores.sql.packing import unpack
from mcp_persist_middleware.stores.sql.read_only import ReadOnly

# Of a payload: all that says how it is written, the name of its key too.
_HEAD = 512
_TOGETHER = 500


class BlobInspection(ReadOnly, ABC):
    """The part of an `Inspection` that knows what sessions, streams, jobs and the journal keep of
    what their clients said."""

    async def blob_heads(self, most: int | None = None) -> AsyncIterator[list[bytes]]:
        """How each that is not empty begins, page by page; of what is damaged as it is.

        Args:
            most: looks at no more than so many rows of a kind, the last ones by their keys (the
                newest, where these are in the order of time).
        """
        tables = self.tables
        session, stream, job, journal = tables.session, tables.stream, tables.job, tables.journal
        only = session.c.deleted.is_(False)
        async for page in self._blobs(most, session, session.c.initialize, only):
            yield [_unpacked(blob)[:_HEAD] for blob in page]
        # Only what is open keeps its request.
        for table, blob, *where in (
            (stream, stream.c.request, stream.c.ended_at.is_(None)),
            (job, job.c.request),
            (job, job.c.inputs),
            (journal, journal.c.params),
        ):
            async for page in self._blobs(most, table, func.substr(blob, 1, _HEAD), *where):
                yield page

    async def _blobs(
        self,
        most: int | None,
        table: Table,
        blob: ColumnElement[Any],
        *only: ColumnElement[bool],
    ) -> AsyncIterator[list[bytes]]:
        key: list[Column[Any]] = list(table.primary_key.columns)
        if table is self.tables.stream:
            # In the order of the index that has the open ones alone.
            key = [table.c.worker, *key]
        meant = select(*key, blob).where(*only).order_by(*[column.desc() for column in key])
        rows = await self.all(meant.limit(_together(most)))
        seen = len(rows)
        while rows:
            if page := [bytes(row[-1]) for row in rows if row[-1]]:
                yield page
            if most is not None and seen >= most:
                break
            last = [literal(v, c.type) for v, c in zip(rows[-1][:-1], key, strict=True)]
            behind = meant.where(tuple_(*key) < tuple_(*last))
            rows = await self.all(behind.limit(_together(most, seen)))
            seen += len(rows)


def _together(most: int | None, seen: int = 0) -> int:
    """How many rows are read next."""
    return _TOGETHER if most is None else min(_TOGETHER, most - seen)


def _unpacked(kept: bytes) -> bytes:
    try:
        return unpack(kept)
    except ValueError:
        return kept
