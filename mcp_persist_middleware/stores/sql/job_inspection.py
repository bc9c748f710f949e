"""What an operator asks a store about jobs, and about what would go with somebody's data."""

import contextlib
from abc import ABC
from collections.abc import Mapping, Sequence

from sqlalchemy import ColumnElement, func, select

from mcp_persist_middleware.errors import StoreError
from mcp_persist_middleware.log.base import Answers
from mcp_persist_middleware.log.whose import Whose
from mcp_persist_middleware.model import JobRecord
from mcp_persist_middleware.stores.sql.jobs import job_of
from mcp_persist_middleware.stores.sql.listing import answers_after, belonging
from mcp_persist_middleware.stores.sql.read_only import ReadOnly
from mcp_persist_middleware.stores.sql.rows import reading


class JobInspection(ReadOnly, ABC):
    """The part of an `Inspection` that knows jobs."""

    async def jobs(self, limit: int) -> Sequence[JobRecord]:
        """The newest, expired ones included."""
        c = self.tables.job.c
        rows = await self.all(select(self.tables.job).order_by(c.id.desc()).limit(limit))
        found = []
        for row in rows:
            with contextlib.suppress(StoreError), reading(self.name, "job"):
                found.append(job_of(row))
        return found

    async def job(self, name: bytes) -> JobRecord | None:
        """One by its id."""
        table = self.tables.job
        for row in await self.all(select(table).where(table.c.id == name)):
            with reading(self.name, "job"):
                return job_of(row)
        return None

    async def answers(self, stream: bytes, after: int) -> Answers:
        """The answers of a stream after a number, as they are stored."""
        last, page = await answers_after(self.all, self.tables, stream, after)
        return Answers(last, page.events)

    async def count_of(
        self, whose: Whose, *, expired: float | None = None, ended: float | None = None
    ) -> Mapping[str, int]:
        """How many streams are somebody's, with their events and the requests that they keep; of
        them all, or those that have expired or ended by a time."""
        c, e = self.tables.stream.c, self.tables.event.c
        meant: list[ColumnElement[bool]] = belonging(c, "session", whose)
        meant += [c.expires_at <= expired] if expired is not None else []
        meant += [c.ended_at <= ended] if ended is not None else []
        # A condition that all meet: of a table without one nothing is known.
        meant += [c.id.is_not(None)]
        of_streams = select(func.count(), func.count(c.request)).where(*meant)
        of_events = select(func.count()).where(e.stream.in_(select(c.id).where(*meant)))
        streams, requests = await self.one(of_streams)
        (events,) = await self.one(of_events)
        return {"streams": streams, "events": events, "requests": requests}

    async def count_belonging(self, whose: Whose) -> Mapping[str, int]:
        """How much else is somebody's: sessions, jobs and rows of the journal, those too that have
        expired or were deleted."""
        tables = self.tables
        named = {
            "sessions": (tables.session.c, "id"),
            "jobs": (tables.job.c, "session"),
            "journal": (tables.journal.c, "session"),
        }
        counts = {
            name: select(func.count()).where(*belonging(c, session, whose))
            for name, (c, session) in named.items()
        }
        return {name: int((await self.one(count))[0]) for name, count in counts.items()}
