"""A whole store as somebody else would write one: on plain dictionaries, with nothing of ours but
the public interface. What is in a `Shelf` lives as long as the process, for all logs on it."""

import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

from mcp_persist_middleware.store import (
    Event,
    EventKind,
    Journal,
    JournalEntry,
    Outcome,
    Purged,
    RecordLog,
    Records,
    Removed,
    Sought,
    StreamKind,
    StreamRecord,
    StreamState,
    StreamWrite,
    Whose,
    earliest,
)


@dataclass
class Shelf:
    """What all logs on it share; whoever changes it holds the lock."""

    lock: threading.RLock = field(default_factory=threading.RLock)
    streams: dict[bytes, StreamRecord] = field(default_factory=dict)
    events: dict[bytes, dict[int, Event]] = field(default_factory=dict)
    records: dict[str, bytes] = field(default_factory=dict)
    journal: dict[str, JournalEntry] = field(default_factory=dict)

    def kept(self, kind: str) -> list[str]:
        """The names of the records of a kind: `worker`, `session`, `request` or
        `reader`."""
        return [key.split("/", 1)[1] for key in self.records if key.startswith(kind + "/")]


class MemoryRecords(Records):
    """The records on a shelf."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf

    async def get(self, key: str) -> bytes | None:
        return self._shelf.records.get(key)

    async def swap(self, key: str, old: bytes | None, new: bytes | None) -> bool:
        with self._shelf.lock:
            if self._shelf.records.get(key) != old:
                return False
            if new is None:
                self._shelf.records.pop(key, None)
            else:
                self._shelf.records[key] = new
            return True

    async def list(self, prefix: str, after: str, limit: int) -> Sequence[tuple[str, bytes]]:
        with self._shelf.lock:
            found = sorted(self._shelf.records.items())
        return [each for each in found if each[0].startswith(prefix) and each[0] > after][:limit]


class MemoryJournal(Journal):
    """The journal on a shelf."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf

    async def write(self, entries: Sequence[JournalEntry]) -> None:
        with self._shelf.lock:
            self._shelf.journal |= {e.id: e for e in entries if e.id not in self._shelf.journal}

    def _newest(self) -> list[JournalEntry]:
        with self._shelf.lock:
            return sorted(self._shelf.journal.values(), key=lambda e: e.id, reverse=True)

    async def find(self, sought: Sought, limit: int, *, before: str = "") -> Sequence[JournalEntry]:
        found = [e for e in self._newest() if sought.has(e) and (not before or e.id < before)]
        return found[:limit]

    async def purge(self, until: float, most: int, limit: int) -> int:
        ordered = self._newest()
        late = [e for n, e in enumerate(ordered) if n >= most or e.id < earliest(until)]
        return self._remove(late[::-1][:limit])

    async def forget(self, whose: Whose) -> int:
        return self._remove([e for e in self._newest() if whose.has(e.owner)])

    def _remove(self, entries: Sequence[JournalEntry]) -> int:
        with self._shelf.lock:
            return sum(self._shelf.journal.pop(e.id, None) is not None for e in entries)


class _LostError(Exception):
    pass


class MemoryLog(RecordLog):
    """A worker's log on a shelf."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf

    def make_records(self) -> Records:
        return MemoryRecords(self._shelf)

    @property
    def journal(self) -> Journal:
        return MemoryJournal(self._shelf)

    async def append(self, batch: Sequence[StreamWrite]) -> list[Outcome]:
        self.must_be_open()
        with self._shelf.lock:
            return [self._outcome(entry) for entry in batch]

    def _outcome(self, entry: StreamWrite) -> Outcome:
        streams, events = self._shelf.streams, self._shelf.events
        before = streams.get(entry.id), dict(events.get(entry.id, {}))
        if self._is_there(entry):
            return Outcome.COMMITTED
        try:
            self._apply(entry)
        except (_LostError, ValueError) as error:
            streams.pop(entry.id, None)
            if before[0] is not None:
                streams[entry.id] = before[0]
            events[entry.id] = before[1]
            return Outcome.FENCED if isinstance(error, _LostError) else Outcome.REJECTED
        return Outcome.COMMITTED

    def _apply(self, entry: StreamWrite) -> None:
        streams = self._shelf.streams
        if entry.create is not None:
            if entry.id in streams:
                raise ValueError
            streams[entry.id] = entry.create
        record = streams.get(entry.id)
        if entry.takes_over is not None:
            record = self._held(_reopened(record), entry.takes_over)
            if any(number > entry.known for number in self._shelf.events.get(entry.id, {})):
                raise _LostError
            record = replace(record, epoch=entry.epoch, worker=entry.worker or record.worker)
        record = self._held(record, entry.epoch)
        rows = self._shelf.events.setdefault(entry.id, {})
        for event in entry.events:
            if event.sequence in rows or not 0 < event.sequence < 1 << 63:
                raise ValueError
            rows[event.sequence] = event
        droppable = [e for e in rows.values() if e.kind <= EventKind.MESSAGE]
        for event in sorted(droppable, key=lambda e: (e.kind, e.sequence))[: entry.trim]:
            del rows[event.sequence]
        if entry.principal is not None:
            record = replace(record, owner=replace(record.owner, principal=entry.principal))
        if (end := entry.ending) is not None:
            early = end.expires_at if record.expires_at is None else record.expires_at
            record = replace(
                record,
                state=end.state,
                last_sequence=end.last_sequence,
                ended_at=end.ended_at,
                expires_at=min(early, end.expires_at),
                request=None,
            )
        streams[entry.id] = record

    @staticmethod
    def _held(record: StreamRecord | None, epoch: int) -> StreamRecord:
        if record is None or record.epoch != epoch or record.state is not StreamState.OPEN:
            raise _LostError
        return record

    def _is_there(self, entry: StreamWrite) -> bool:
        record = self._shelf.streams.get(entry.id)
        if record is None or record.epoch != entry.epoch:
            return False
        if entry.ending is not None and record.state != entry.ending.state:
            return False
        if not entry.events:
            mine = entry.worker is not None and record.worker == entry.worker
            return mine or entry.create is not None or entry.ending is not None
        rows = self._shelf.events.get(entry.id, {})
        return all(
            (held := rows.get(event.sequence)) is not None and held.epoch == event.epoch
            for event in entry.events
        )

    async def find(self, stream: bytes) -> StreamRecord | None:
        self.must_be_open()
        return self._shelf.streams.get(stream)

    async def read(self, stream: bytes, after: int, max_events: int, max_bytes: int) -> list[Event]:
        with self._shelf.lock:
            rows = sorted(self._shelf.events.get(stream, {}).items())
        found: list[Event] = []
        total = 0
        for number, event in rows:
            total += len(event.frame)
            if number > after and len(found) < max_events and (total <= max_bytes or not found):
                found.append(event)
            elif number <= after:
                total = 0
        return found

    async def open_streams(self, after: bytes, limit: int) -> Sequence[StreamRecord]:
        with self._shelf.lock:
            found = [r for r in self._shelf.streams.values() if r.ended_at is None and r.id > after]
        return sorted(found, key=lambda record: record.id)[:limit]

    async def expire_session(self, namespace: str, path: str, session: str) -> None:
        with self._shelf.lock:
            for record in list(self._shelf.streams.values()):
                owner = record.owner
                if session and (owner.namespace, owner.path, owner.session) == (
                    namespace,
                    path,
                    session,
                ):
                    self._shelf.streams[record.id] = replace(record, expires_at=0.0)

    async def purge(self, now: float, max_events: int) -> Purged:
        with self._shelf.lock:
            late = [
                record
                for record in self._shelf.streams.values()
                if record.expires_at is not None and record.expires_at <= now
            ]
            return self._removed(sorted(late, key=lambda each: each.expires_at or 0.0), max_events)

    async def streams(
        self, after: bytes, limit: int, *, newest_first: bool = False
    ) -> Sequence[StreamRecord]:
        with self._shelf.lock:
            found = sorted(self._shelf.streams.items(), reverse=newest_first)
        if after:
            found = [
                each for each in found if (each[0] < after if newest_first else each[0] > after)
            ]
        return [record for _, record in found[:limit]]

    async def remove(
        self, streams: Collection[bytes], max_events: int, *, ended: bool = False
    ) -> Purged:
        with self._shelf.lock:
            found = [self._shelf.streams[each] for each in streams if each in self._shelf.streams]
            meant = [r for r in found if not (ended and r.state is StreamState.OPEN)]
            for record in meant:
                self._shelf.streams[record.id] = replace(record, expires_at=0.0)
            return self._removed(meant, max_events)

    def _removed(self, streams: Sequence[StreamRecord], max_events: int) -> Purged:
        gone: list[tuple[str, Removed]] = []
        for record in streams:
            rows = self._shelf.events.get(record.id, {})
            first = sorted(rows)[:max_events]
            for number in first:
                del rows[number]
            max_events -= len(first)
            gone.append((record.owner.namespace, Removed(events=len(first))))
            if rows or not max_events:
                return Purged.of(gone, more=True)
            self._shelf.events.pop(record.id, None)
            del self._shelf.streams[record.id]
            gone.append((record.owner.namespace, Removed(streams=1)))
        return Purged.of(gone, more=False)


def _reopened(record: StreamRecord | None) -> StreamRecord | None:
    """A GET stream goes on after its end, unless its session was forgotten."""
    if record is None or record.kind is not StreamKind.GET or not record.expires_at:
        return record
    return replace(record, state=StreamState.OPEN, last_sequence=0, ended_at=None, expires_at=None)
