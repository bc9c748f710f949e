"""A log in front of another one."""

import copy
from collections.abc import Collection, Mapping, Sequence

from mcp_persist_middleware.log.base import (
    Answers,
    EventLog,
    LastNumber,
    Purged,
    StoreFacts,
    Written,
)
from mcp_persist_middleware.log.deletions import Deletion
from mcp_persist_middleware.log.jobs import Jobs
from mcp_persist_middleware.log.journal import Journal
from mcp_persist_middleware.log.parts import Inbox, Sessions, WorkerTable
from mcp_persist_middleware.log.whose import Whose
from mcp_persist_middleware.model import (
    Beat,
    Event,
    Outcome,
    StreamRecord,
    StreamWrite,
)
from mcp_persist_middleware.wakeups.base import Wakeups


class OuterLog(EventLog):
    """`EventLog` that leaves everything to `inner`: whoever is derived from it says what it does
    itself."""

    def __init__(self, inner: EventLog) -> None:
        self.inner = inner

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def durability(self) -> str:
        return self.inner.durability

    @property
    def secret(self) -> bytes:
        return self.inner.secret

    @property
    def sessions(self) -> Sessions:
        return self.inner.sessions

    @property
    def inbox(self) -> Inbox:
        return self.inner.inbox

    @property
    def jobs(self) -> Jobs | None:
        return self.inner.jobs

    @property
    def journal(self) -> Journal | None:
        return self.inner.journal

    @property
    def max_in_flight(self) -> int:
        return self.inner.max_in_flight

    @property
    def has_fast_path(self) -> bool:
        return self.inner.has_fast_path

    def takes_fast(self, stream: bytes, size: int) -> bool:
        return self.inner.takes_fast(stream, size)

    @property
    def shared(self) -> EventLog:
        below = self.inner.shared
        if below is self.inner:
            return self
        front = copy.copy(self)
        front.inner = below
        return front

    @property
    def wakeups(self) -> Wakeups:
        return self.inner.wakeups

    def now(self) -> float:
        return self.inner.now()

    async def open(self, worker: str) -> None:
        await self.inner.open(worker)

    async def aclose(self) -> None:
        await self.inner.aclose()

    async def ping(self) -> None:
        await self.inner.ping()

    async def check(self) -> None:
        await self.inner.check()

    def facts(self) -> StoreFacts:
        return self.inner.facts()

    async def append(self, batch: Sequence[StreamWrite]) -> list[Outcome]:
        return await self.inner.append(batch)

    async def find(self, stream: bytes) -> StreamRecord | None:
        return await self.inner.find(stream)

    async def read(self, stream: bytes, after: int, max_events: int, max_bytes: int) -> list[Event]:
        return await self.inner.read(stream, after, max_events, max_bytes)

    async def written(self, stream: bytes, after: int = 0) -> Written:
        return await self.inner.written(stream, after)

    async def answers(self, stream: bytes, after: int = 0) -> Answers:
        return await self.inner.answers(stream, after)

    async def last_numbers(self, streams: Mapping[bytes, int]) -> Mapping[bytes, LastNumber]:
        return await self.inner.last_numbers(streams)

    async def renew_readers(self, streams: Collection[bytes], seconds: float) -> None:
        await self.inner.renew_readers(streams, seconds)

    async def reader_ttl(self, stream: bytes) -> float | None:
        return await self.inner.reader_ttl(stream)

    def worker_table(self) -> WorkerTable:
        return self.inner.worker_table()

    def is_gone(self, worker: str) -> bool:
        return self.inner.is_gone(worker)

    async def workers(self) -> Mapping[str, Beat]:
        return await self.inner.workers()

    async def declare_dead(self, worker: str, counter: int) -> bool:
        return await self.inner.declare_dead(worker, counter)

    async def deregister(self, worker: str) -> None:
        await self.inner.deregister(worker)

    async def active_writers(self) -> list[str]:
        return await self.inner.active_writers()

    async def open_streams_of(
        self, worker: str, limit: int, after: bytes = b""
    ) -> list[StreamRecord]:
        return await self.inner.open_streams_of(worker, limit, after)

    async def expire_session(self, namespace: str, path: str, session: str) -> None:
        await self.inner.expire_session(namespace, path, session)

    async def purge(self, now: float, max_events: int) -> Purged:
        return await self.inner.purge(now, max_events)

    async def streams(
        self, after: bytes, limit: int, *, newest_first: bool = False
    ) -> Sequence[StreamRecord]:
        return await self.inner.streams(after, limit, newest_first=newest_first)

    async def streams_of(self, whose: Whose, after: bytes, limit: int) -> Sequence[StreamRecord]:
        return await self.inner.streams_of(whose, after, limit)

    async def ids_of(self, whose: Whose, after: bytes, limit: int) -> Sequence[bytes]:
        return await self.inner.ids_of(whose, after, limit)

    async def remove(
        self, streams: Collection[bytes], max_events: int, *, ended: bool = False
    ) -> Purged:
        return await self.inner.remove(streams, max_events, ended=ended)

    async def size(self) -> int:
        return await self.inner.size()

    async def namespaces(self) -> Collection[str]:
        return await self.inner.namespaces()

    async def beyond(self, namespace: str, most: int, *, in_bytes: bool = False) -> bytes:
        return await self.inner.beyond(namespace, most, in_bytes=in_bytes)

    async def note_deletions(self, deletions: Sequence[Deletion]) -> None:
        await self.inner.note_deletions(deletions)

    async def deletions(self, limit: int) -> Sequence[Deletion]:
        return await self.inner.deletions(limit)
