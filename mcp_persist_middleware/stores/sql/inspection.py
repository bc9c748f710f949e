"""What an operator asks a store. None of it changes anything there."""

import contextlib
from abc import ABC
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, LargeBinary, func, literal, select, tuple_

from mcp_persist_middleware.errors import StoreError
from mcp_persist_middleware.log.base import LastNumber
from mcp_persist_middleware.log.deletions import Deletion
from mcp_persist_middleware.log.journal import JournalEntry, Sought
from mcp_persist_middleware.model import (
    NOTE,
    Event,
    RelayState,
    SessionRecord,
    StreamRecord,
    StreamState,
)
from mcp_persist_middleware.protocol.event_id import earliest
from mcp_persist_middleware.stores.sql.blob_inspection import BlobInspection
from mcp_persist_middleware.stores.sql.inspected import (
    Count,
    EventHead,
    Kept,
    Overdue,
    PayloadHead,
    Wanted,
    WorkerRow,
)
from mcp_persist_middleware.stores.sql.job_inspection import JobInspection
from mcp_persist_middleware.stores.sql.journal import entries_of, newest
from mcp_persist_middleware.stores.sql.listing import (
    deletions_of,
    last_numbers,
    newest_deletions,
    numbers_of,
)
from mcp_persist_middleware.stores.sql.rows import page_of, reading, record_of
from mcp_persist_middleware.stores.sql.sessions import session_of

_TOGETHER = 256
# Of a payload: all that says how it is written.
_HEAD = 40


class Inspection(JobInspection, BlobInspection, ABC):
    """The tables of one store. Use it as an async context manager.

    Every method raises `StoreError` when the store does not answer.
    """

    async def counts(self) -> Sequence[Count]:
        """By namespace."""
        c, s = self.tables.stream.c, self.tables.session.c
        of_streams = select(
            c.namespace,
            func.count().label("streams"),
            _count_if(c.ended_at.is_(None)).label("open"),
            _count_if(c.state == int(StreamState.FAILED)).label("failed"),
            func.coalesce(func.sum(c.last_sequence), 0).label("events"),
        ).group_by(c.namespace)
        of_sessions = (
            select(s.namespace, func.count())
            .where(s.deleted.is_(False), _is_one(s.id))
            .group_by(s.namespace)
        )
        sessions = dict(map(tuple, await self.all(of_sessions)))
        counts = {
            row.namespace: Count(row[0], row[1], int(row[2]), int(row[3]), int(row[4]))
            for row in await self.all(of_streams)
        }
        names = sorted({*counts, *sessions})
        return [
            counts.get(name, Count(name, 0, 0, 0, 0))._replace(sessions=sessions.get(name, 0))
            for name in names
        ]

    async def overdue(self, now: float, most: int = 10_000) -> Overdue:
        """The streams that have expired and are still there."""
        c = self.tables.stream.c
        late = select(c.expires_at).where(c.expires_at <= now).order_by(c.expires_at).limit(most)
        some = late.subquery()
        row = await self.one(select(func.count(), func.min(some.c.expires_at)).select_from(some))
        # A deleted session's have expired since ever: they say nothing of retention.
        after = select(func.min(c.expires_at)).where(c.expires_at <= now, c.expires_at > 0)
        return Overdue(row[0], (await self.one(after))[0])

    async def waiting_requests(self) -> int:
        """Relayed requests that nobody has claimed yet."""
        c = self.tables.inbox.c
        waiting = select(func.count()).where(c.state == int(RelayState.PENDING))
        return int((await self.one(waiting))[0])

    async def workers(self, now: float) -> Sequence[WorkerRow]:
        """All that have a row, and all that an open stream names."""
        w, c, s = (t.c for t in (self.tables.worker, self.tables.stream, self.tables.session))
        rows = await self.all(select(w.id, w.state, w.seen_at, w.schema))
        open_streams = await self.all(
            select(c.worker, func.count(), _count_if(c.reader_until > now))
            .where(c.ended_at.is_(None))
            .group_by(c.worker)
        )
        homes = await self.all(
            select(s.home, func.count())
            .where(s.deleted.is_(False), s.expires_at > now, _is_one(s.id))
            .group_by(s.home)
        )
        streams = {row[0]: (row[1], int(row[2])) for row in open_streams}
        sessions = {row[0]: row[1] for row in homes}
        known = {row.id: (row.state, row.seen_at, row.schema) for row in rows}
        return [
            WorkerRow(
                name,
                *known.get(name, (-1, 0.0, None)),
                *streams.get(name, (0, 0)),
                sessions.get(name, 0),
            )
            for name in sorted({*known, *streams})
        ]

    async def streams(
        self, wanted: Wanted, limit: int, *, before: bytes | None = None, after: bytes | None = None
    ) -> Sequence[StreamRecord]:
        """The newest that are meant, from before one on; or the oldest, from behind one on."""
        c = self.tables.stream.c
        statement = select(self.tables.stream).where(*self._meant(wanted))
        if before is not None:
            statement = statement.where(c.id < before)
        if after is not None:
            statement = statement.where(c.id > after).order_by(c.id)
        rows = await self.all(statement.order_by(c.id.desc()).limit(limit))
        found = []
        for row in rows:
            with contextlib.suppress(StoreError), reading(self.name, "stream"):
                found.append(record_of(row))
        return found

    async def stream(self, stream: bytes) -> StreamRecord | None:
        """One by its id."""
        table = self.tables.stream
        for row in await self.all(select(table).where(table.c.id == stream)):
            with reading(self.name, "stream"):
                return record_of(row)
        return None

    async def own_streams(self, wanted: Wanted) -> Sequence[bytes]:
        """The sessions' own of the streams that are meant: they may go on after their end."""
        c, own = self.tables.stream.c, select(self.tables.session.c.read_stream)
        rows = await self.all(select(c.id).where(*self._meant(wanted), c.id.in_(own)))
        return [bytes(row.id) for row in rows]

    async def journal(
        self, sought: Sought, limit: int, *, before: str = ""
    ) -> Sequence[JournalEntry]:
        """The newest entries that are meant, their parameters as they are stored."""
        return entries_of(await self.all(newest(self.tables.journal, sought, limit, before)))

    async def deletions(self, limit: int) -> Sequence[Deletion]:
        """What was removed of late, the newest first."""
        return deletions_of(await self.all(newest_deletions(self.tables.deletion, limit)))

    def _meant(self, wanted: Wanted) -> list[ColumnElement[bool]]:
        c = self.tables.stream.c
        named = ("id", "namespace", "path", "session", "principal", "worker", "kind")
        conditions = [
            c[name] == value for name in named if (value := getattr(wanted, name)) is not None
        ]
        if wanted.is_open is not None:
            is_open = c.ended_at.is_(None)
            conditions.append(is_open if wanted.is_open else ~is_open)
        # Ids begin with the time, so the primary key finds them; clocks may differ a little.
        if wanted.created_after is not None:
            conditions += [c.id >= earliest(wanted.created_after - 60)]
            conditions += [c.created_at >= wanted.created_after]
        if wanted.created_before is not None:
            conditions += [c.created_at <= wanted.created_before]
        if wanted.ended_before is not None:
            conditions += [c.ended_at <= wanted.ended_before]
        return conditions or [c.id.is_not(None)]

    async def kept(self, streams: Collection[bytes]) -> Mapping[bytes, Kept]:
        """What there is of the events of some streams, by stream."""
        c, names = self.tables.event.c, list(streams)
        found: dict[bytes, Kept] = {}
        for start in range(0, len(names), _TOGETHER):
            of_part = c.stream.in_(names[start : start + _TOGETHER])
            statement = select(
                c.stream,
                func.min(c.sequence),
                func.max(c.sequence),
                func.count(),
                func.sum(func.length(c.payload)),
            )
            rows = await self.all(statement.where(of_part).group_by(c.stream))
            found |= {bytes(row[0]): Kept(row[1], row[2], row[3], int(row[4])) for row in rows}
        return found

    async def last_numbers(self, streams: Collection[bytes]) -> Mapping[bytes, LastNumber]:
        """How far those of these streams are that are there."""
        found: dict[bytes, LastNumber] = {}
        names = list(streams)
        for start in range(0, len(names), _TOGETHER):
            part = names[start : start + _TOGETHER]
            found |= numbers_of(await self.all(last_numbers(self.tables, part)))
        return found

    async def heads(self, stream: bytes, after: int, limit: int) -> Sequence[EventHead]:
        """Events of a stream without what they say."""
        c = self.tables.event.c
        statement = (
            select(c.sequence, c.epoch, c.kind, c.codec, func.length(c.payload))
            .where(c.stream == stream, c.sequence > after)
            .order_by(c.sequence)
            .limit(limit)
        )
        return [EventHead(*row) for row in await self.all(statement)]

    async def events(self, stream: bytes, sequences: Collection[int]) -> Sequence[Event]:
        """Events of a stream as they are stored."""
        c = self.tables.event.c
        statement = (
            select(c.sequence, c.epoch, c.kind, c.codec, c.payload)
            .where(c.stream == stream, c.sequence.in_(list(sequences)))
            .order_by(c.sequence)
        )
        return page_of(tuple(row) for row in await self.all(statement)).events

    async def newest_payload_heads(self, limit: int) -> Sequence[PayloadHead]:
        """How events of the newest streams are written."""
        c = self.tables.event.c
        statement = _payload_heads(c).order_by(c.stream.desc(), c.sequence.desc()).limit(limit)
        return [PayloadHead(*row) for row in await self.all(statement)]

    async def payload_heads(self, after: tuple[bytes, int], limit: int) -> Sequence[PayloadHead]:
        """How events are written, from behind one on."""
        c = self.tables.event.c
        place = tuple_(c.stream, c.sequence)
        behind = place > tuple_(literal(after[0], LargeBinary), literal(after[1], BigInteger))
        statement = _payload_heads(c).where(behind).order_by(c.stream, c.sequence).limit(limit)
        return [PayloadHead(*row) for row in await self.all(statement)]

    async def sessions(
        self, wanted: Wanted, now: float, limit: int, *, identifier: str | None = None
    ) -> Sequence[SessionRecord]:
        """Those that live, the ones that expire last first."""
        c = self.tables.session.c
        named = {"namespace": wanted.namespace, "path": wanted.path, "principal": wanted.principal}
        named |= {"home": wanted.worker, "id": identifier or wanted.session}
        statement = select(self.tables.session).where(
            c.deleted.is_(False),
            c.expires_at > now,
            _is_one(c.id),
            *(c[name] == value for name, value in named.items() if value is not None),
        )
        rows = await self.all(statement.order_by(c.expires_at.desc()).limit(limit))
        found = []
        for row in rows:
            with contextlib.suppress(StoreError), reading(self.name, "session"):
                found.append(session_of(row))
        return found


def _is_one(name: ColumnElement[str]) -> ColumnElement[bool]:
    """Whether a row of the sessions is one, and not a note beside them."""
    return name.not_like(NOTE + "%")


def _count_if(condition: ColumnElement[bool]) -> ColumnElement[int]:
    return func.count().filter(condition)


def _payload_heads(c: Any) -> Any:
    return select(c.stream, c.sequence, c.codec, func.substr(c.payload, 1, _HEAD))
