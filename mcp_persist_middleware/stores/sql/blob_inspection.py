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

    async def blob_heads(self) -> AsyncIterator[list[bytes]]:
        """How each that is not empty begins, page by page; of what is damaged as it is."""
        tables = self.tables
        session, stream, job, journal = tables.session, tables.stream, tables.job, tables.journal
        async for page in self._blobs(session, session.c.initialize, session.c.deleted.is_(False)):
            yield [_unpacked(blob)[:_HEAD] for blob in page]
        # Only what is open keeps its request.
        for table, blob, *only in (
            (stream, stream.c.request, stream.c.ended_at.is_(None)),
            (job, job.c.request),
            (job, job.c.inputs),
            (journal, journal.c.params),
        ):
            async for page in self._blobs(table, func.substr(blob, 1, _HEAD), *only):
                yield page

    async def _blobs(
        self, table: Table, blob: ColumnElement[Any], *only: ColumnElement[bool]
    ) -> AsyncIterator[list[bytes]]:
        key: list[Column[Any]] = list(table.primary_key.columns)
        meant = select(*key, blob).where(*only).order_by(*key).limit(_TOGETHER)
        rows = await self.all(meant)
        while rows:
            if page := [bytes(row[-1]) for row in rows if row[-1]]:
                yield page
            last = [literal(v, c.type) for v, c in zip(rows[-1][:-1], key, strict=True)]
            rows = await self.all(meant.where(tuple_(*key) > tuple_(*last)))


def _unpacked(kept: bytes) -> bytes:
    try:
        return unpack(kept)
    except ValueError:
        return kept
