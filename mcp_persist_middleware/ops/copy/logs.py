"""A store of somebody else's as an end of a copy, through what every `EventLog` has, and what lists
its streams and sessions.

It is read as any other. What is written into it is written as a worker would: a stream is begun,
taken over from epoch to epoch, and ended. That is not one transaction with the note of the place;
so the note comes after it, and what is written again is found there. What the source has removed
since stays, until it expires there too.
"""

import hashlib
from collections.abc import Mapping, Sequence

from mcp_persist_middleware.errors import CopyError
from mcp_persist_middleware.log import mirror
from mcp_persist_middleware.log.base import EventLog
from mcp_persist_middleware.log.journal import JournalEntry, Sought
from mcp_persist_middleware.log.record_log import RecordLog
from mcp_persist_middleware.log.records import Records
from mcp_persist_middleware.model import Place, SessionKey, WorkerState
from mcp_persist_middleware.ops.copy import records
from mcp_persist_middleware.ops.copy.rows import (
    EVERYTHING,
    LAST,
    Beside,
    Changes,
    EventKey,
    EventRow,
    Extent,
    Key,
    Row,
    Selection,
)
from mcp_persist_middleware.ops.copy.store import Writable
from mcp_persist_middleware.ops.copy.stream_writer import StreamWriter
from mcp_persist_middleware.stores.sql.jobs import row_of as row_of_job

_PAGE = (1000, 1 << 20)
_STREAMS = 100


class LogRows(Writable):
    """`Writable` in a log that is not open.

    Args:
        name: under which it opens the log.
    """

    def __init__(self, log: EventLog, name: str) -> None:
        self.name = log.name
        self._log = log
        self._worker = name

    async def open(self) -> bool:
        await self._log.open(self._worker)
        return True

    async def aclose(self) -> None:
        await self._log.aclose()

    async def now(self) -> float:
        return self._log.now()

    async def meta(self) -> Mapping[str, bytes]:
        secret = self._log.secret
        found = {"secret": secret, "store": hashlib.blake2b(secret, digest_size=16).digest()}
        if isinstance(self._log, RecordLog):
            # The secret may be that of the store that it was copied from.
            await self._log.records.create("store", {"id": found["store"]})
            known = await self._log.records.read("store") or {}
            note = await self._log.records.read(mirror.NAME)
            found["store"] = known["id"]
            found |= {mirror.NAME: note["value"]} if note is not None else {}
        return found

    async def count(self) -> int:
        count, after = 0, b""
        while found := await self._log.streams(after, _STREAMS):
            count, after = count + len(found), found[-1].id
        return count

    async def workers(self) -> Mapping[str, int]:
        return {
            name: beat.counter
            for name, beat in (await self._log.workers()).items()
            if name != self._worker
            and beat.state is not WorkerState.DEAD
            and not self._log.is_gone(name)
        }

    async def streams(
        self,
        after: bytes,
        limit: int,
        *,
        is_open: bool = False,
        only: Selection = EVERYTHING,
    ) -> Sequence[Row]:
        found: list[Row] = []
        while len(found) < limit and (page := await self._log.streams(after, limit)):
            after = page[-1].id
            rows = [records.stream_row(record) for record in page]
            found += [row for row in rows if _is_wanted(row, only, is_open=is_open)]
        return found[:limit]

    async def request(self, stream: bytes) -> bytes | None:
        record = await self._log.find(stream)
        return None if record is None else record.request

    async def find_streams(self, ids: Sequence[bytes]) -> Mapping[bytes, Row]:
        found = [await self._log.find(id_) for id_ in ids]
        return {each.id: records.stream_row(each) for each in found if each is not None}

    def kept(self) -> Sequence[Beside]:
        parts = {Beside.JOB: self._log.jobs, Beside.JOURNAL: self._log.journal}
        return [table for table in Beside if parts.get(table, self._log) is not None]

    async def rows(
        self, table: Beside, after: Key | None, limit: int, only: Selection = EVERYTHING
    ) -> Sequence[Row]:
        found: list[Row] = []
        while len(found) < limit and (page := await self._page(table, after, limit)):
            after = table.key_of(page[-1])
            found += [row for row in page if _is_named(row, table, only)]
        return found[:limit]

    async def _page(self, table: Beside, after: Key | None, limit: int) -> Sequence[Row]:
        match table:
            case Beside.SESSION:
                behind = None if after is None else SessionKey(*after)
                page = await self._log.sessions.list(behind, limit)
                return [records.session_row(*each) for each in page]
            case Beside.JOB:
                jobs = self._log.jobs
                before = after[0] if after else b""
                found = () if jobs is None else await jobs.list(None, before, limit)
                return [row_of_job(job) for job in found]
            case Beside.JOURNAL:
                before = after[0] if after else ""
                return [records.entry_row(each) for each in await self._entries(before, limit)]

    async def _entries(self, before: str, limit: int, after: str = "") -> Sequence[JournalEntry]:
        journal = self._log.journal
        sought = Sought(after=after)
        return () if journal is None else await journal.find(sought, limit, before=before)

    async def find_rows(self, table: Beside, keys: Sequence[Key]) -> Mapping[Key, Row]:
        match table:
            case Beside.SESSION:
                return await self._sessions([SessionKey(*key) for key in keys])
            case Beside.JOB:
                jobs = self._log.jobs
                found = [] if jobs is None else [await jobs.find(name) for (name,) in keys]
                return {(job.id,): row_of_job(job) for job in found if job is not None}
            case Beside.JOURNAL:
                return await self._find_entries([name for (name,) in keys])

    async def has_key(self, job: Row) -> bool:
        place, key = Place(job["namespace"], job["path"]), job["key"]
        jobs = self._log.jobs
        return jobs is not None and bool(key) and await jobs.find_key(place, key) is not None

    async def _find_entries(self, names: Sequence[str]) -> Mapping[Key, Row]:
        # A text comes behind its own beginning, and before what goes on behind it.
        after, before = (min(names)[:-1], max(names) + "0") if names else ("", "")
        found: dict[Key, Row] = {}
        while names and (page := await self._entries(before, _PAGE[0], after)):
            found |= {(e.id,): records.entry_row(e) for e in page if e.id in {*names}}
            before = page[-1].id
        return found

    async def _sessions(self, keys: Sequence[SessionKey]) -> Mapping[Key, Row]:
        found: dict[Key, Row] = {}
        for key in keys:
            record = await self._log.sessions.find(key)
            state = await self._log.sessions.stream_state(key)
            if record is not None and state is not None:
                found[key] = records.session_row(record, state)
        return found

    async def events(
        self, after: EventKey, until: bytes, max_events: int, max_bytes: int
    ) -> Sequence[EventRow]:
        # A page is of one stream here.
        stream, sequence = after
        while True:
            if sequence < LAST and stream <= until:
                found = await self._log.read(stream, sequence, max_events, max_bytes)
                if found:
                    return [(stream, e.sequence, e.epoch, e.kind, e.codec, e.frame) for e in found]
            following = await self._log.streams(stream, 1)
            if not following or following[0].id > until:
                return []
            stream, sequence = following[0].id, 0

    async def extents(self, bounds: Mapping[bytes, int]) -> Mapping[bytes, Extent]:
        found: dict[bytes, Extent] = {}
        for stream, until in bounds.items():
            numbers = await self.numbers(stream, until)
            found[stream] = Extent(numbers[-1] if numbers else 0, len(numbers))
        return found

    async def numbers(self, stream: bytes, until: int) -> Sequence[int]:
        found: list[int] = []
        while page := await self._log.read(stream, found[-1] if found else 0, *_PAGE):
            mine = [event.sequence for event in page if event.sequence <= until]
            found += mine
            if len(mine) < len(page):
                break
        return found

    async def begin(self, old: bytes | None, new: bytes, secret: bytes) -> bool:
        kept = self._records()
        if old is not None:
            return await self._swap(old, new)
        if await self.workers() or await self._log.streams(b"", 1):
            return False
        if [table for table in Beside if await self._page(table, None, 1)]:
            return False
        await kept.change("secret", lambda _: {"secret": secret})
        return await kept.create(mirror.NAME, {"value": new})

    async def apply(self, changes: Changes, notes: tuple[bytes, bytes] | None) -> None:
        if notes is not None and not await self._swap(notes[0], notes[0]):
            raise self._taken()
        for table, row in changes.rows:
            await self._write(table, row, replaces=notes is not None)
        if self._log.jobs is not None:
            gone = [key[0] for table, key in changes.gone_rows if table is Beside.JOB]
            await self._log.jobs.remove(gone)
        await StreamWriter(self._log, changes).run()
        if notes is not None and not await self._swap(*notes):
            raise self._taken()

    async def _write(self, table: Beside, row: Row, *, replaces: bool) -> None:
        match table:
            case Beside.SESSION:
                await records.write_session(self._log.sessions, row)
            case Beside.JOB if self._log.jobs is not None:
                await records.write_job(self._log.jobs, row, replaces=replaces)
            case Beside.JOURNAL if self._log.journal is not None:
                await self._log.journal.write([records.entry(row)])

    def _records(self) -> Records:
        if not isinstance(self._log, RecordLog):
            raise CopyError(reason=f"{self.name} is no RecordLog: it cannot keep a copy's place")
        return self._log.records

    async def _swap(self, old: bytes, new: bytes) -> bool:
        return await self._records().change(
            mirror.NAME, lambda note: {"value": new} if note["value"] == old else None
        )

    def _taken(self) -> CopyError:
        return CopyError(reason=f"another copy, or a server, has taken the store {self.name}")


def _is_wanted(row: Row, only: Selection, *, is_open: bool) -> bool:
    wanted = {"namespace": only.namespace, "session": only.session, "id": only.stream}
    is_named = all(value is None or row[name] == value for name, value in wanted.items())
    return is_named and not (is_open and row["ended_at"] is not None)


def _is_named(row: Row, table: Beside, only: Selection) -> bool:
    return all(value in (None, row[name]) for name, value in only.of(table).items())
