"""A log in front of another one, and its parts in front of those."""

import copy
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

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
    EnqueueResult,
    Event,
    Outcome,
    RelayRequest,
    RelayRequestId,
    RelayStatus,
    SessionKey,
    SessionRecord,
    SessionStreamState,
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


class OuterSessions(Sessions):
    """`Sessions` that leaves everything to `inner`."""

    def __init__(self, inner: Sessions) -> None:
        self.inner = inner

    def now(self) -> float:
        return self.inner.now()

    async def create(self, record: SessionRecord) -> bool:
        return await self.inner.create(record)

    async def find(self, key: SessionKey) -> SessionRecord | None:
        return await self.inner.find(key)

    async def move(self, key: SessionKey, generation: int, home: str) -> bool:
        return await self.inner.move(key, generation, home)

    async def note(self, record: SessionRecord) -> None:
        await self.inner.note(record)

    async def touch(self, keys: Iterable[SessionKey], expires_at: float) -> int:
        return await self.inner.touch(keys, expires_at)

    async def delete(
        self, key: SessionKey, expires_at: float, generation: int | None = None
    ) -> bool:
        return await self.inner.delete(key, expires_at, generation)

    async def purge(self, now: float, limit: int) -> int:
        return await self.inner.purge(now, limit)

    async def list(
        self, after: SessionKey | None, limit: int
    ) -> Sequence[tuple[SessionRecord, SessionStreamState]]:
        return await self.inner.list(after, limit)

    async def own_streams(self, namespace: str | None = None) -> Collection[bytes]:
        return await self.inner.own_streams(namespace)

    async def forget(self, whose: Whose) -> Collection[SessionKey]:
        return await self.inner.forget(whose)

    async def stream_state(self, key: SessionKey) -> SessionStreamState | None:
        return await self.inner.stream_state(key)

    async def begin_stream(self, key: SessionKey, stream: bytes) -> None:
        await self.inner.begin_stream(key, stream)

    async def activate(self, key: SessionKey, turn: int, worker: str) -> bool:
        return await self.inner.activate(key, turn, worker)

    async def checkpoint(
        self, key: SessionKey, turn: int, worker: str, stream: bytes, sequence: int
    ) -> bool:
        return await self.inner.checkpoint(key, turn, worker, stream, sequence)


class OuterInbox(Inbox):
    """`Inbox` that leaves everything to `inner`."""

    def __init__(self, inner: Inbox) -> None:
        self.inner = inner
        self.look_seconds = inner.look_seconds

    def now(self) -> float:
        return self.inner.now()

    async def publish(self, worker: str, public_key: bytes) -> None:
        await self.inner.publish(worker, public_key)

    async def public_key(self, worker: str) -> bytes | None:
        return await self.inner.public_key(worker)

    async def put(self, request: RelayRequest, most: int) -> EnqueueResult:
        return await self.inner.put(request, most)

    async def claim(
        self, worker: str, limit: int, now: float, deadline: float
    ) -> list[RelayRequest]:
        return await self.inner.claim(worker, limit, now, deadline)

    async def claimed(self, worker: str) -> list[bytes]:
        return await self.inner.claimed(worker)

    async def renew(
        self, worker: str, requests: Collection[bytes], deadline: float
    ) -> Collection[bytes]:
        return await self.inner.renew(worker, requests, deadline)

    async def withdraw(self, request: RelayRequestId) -> bool:
        return await self.inner.withdraw(request)

    async def tombstone(self, request: RelayRequestId, deadline: float, reply: bytes = b"") -> bool:
        return await self.inner.tombstone(request, deadline, reply)

    async def answer(self, request: bytes, worker: str, reply: bytes, deadline: float) -> bool:
        return await self.inner.answer(request, worker, reply, deadline)

    async def look(self, request: RelayRequestId) -> RelayStatus | None:
        return await self.inner.look(request)

    async def remove(self, requests: Collection[RelayRequestId]) -> None:
        await self.inner.remove(requests)

    async def purge(self, now: float, limit: int) -> int:
        return await self.inner.purge(now, limit)

    async def forget(self, is_meant: Callable[[SessionKey], bool], workers: Collection[str]) -> int:
        return await self.inner.forget(is_meant, workers)
