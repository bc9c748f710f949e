"""What a `MemoryLog` consists of beside its streams: sessions, relayed requests and workers, and
the `Shelf` that has them all for as long as the process lives."""

import secrets
import threading
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from mcp_persist_middleware.store import (
    Beat,
    Certainty,
    EnqueueResult,
    Event,
    Inbox,
    RelayRequest,
    RelayRequestId,
    RelayState,
    RelayStatus,
    SessionKey,
    SessionRecord,
    Sessions,
    SessionStreamState,
    StoreError,
    StreamRecord,
    WorkerState,
    WorkerTable,
)


@dataclass
class Post:
    """A relayed request and where it is."""

    request: RelayRequest
    state: RelayState
    deadline: float
    reply: bytes = b""


@dataclass
class Shelf:
    """What all logs on it share; whoever changes it holds the lock."""

    secret: bytes = field(default_factory=lambda: secrets.token_bytes(32))
    lock: threading.RLock = field(default_factory=threading.RLock)
    streams: dict[bytes, StreamRecord] = field(default_factory=dict)
    events: dict[bytes, dict[int, Event]] = field(default_factory=dict)
    read_until: dict[bytes, float] = field(default_factory=dict)
    sessions: dict[SessionKey, SessionRecord] = field(default_factory=dict)
    stream_state: dict[SessionKey, SessionStreamState] = field(default_factory=dict)
    workers: dict[str, Beat] = field(default_factory=dict)
    keys: dict[str, bytes] = field(default_factory=dict)
    requests: dict[bytes, Post] = field(default_factory=dict)


class MemoryWorkers(WorkerTable):
    """The workers on a shelf; used from the thread of a heartbeat."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf

    async def enrol(self, worker: str) -> None:
        self._shelf.workers[worker] = Beat(1, WorkerState.LIVE, self.now())

    async def beat(self, worker: str, state: WorkerState) -> bool:
        with self._shelf.lock:
            beat = self._shelf.workers.get(worker)
            if beat is None or beat.state is WorkerState.DEAD:
                return False
            self._shelf.workers[worker] = Beat(beat.counter + 1, state, self.now())
            return True

    async def look(self) -> Mapping[str, Beat]:
        with self._shelf.lock:
            return dict(self._shelf.workers)

    async def aclose(self) -> None:
        """Nothing is open."""


class MemorySessions(Sessions):
    """The sessions on a shelf."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf

    async def create(self, record: SessionRecord) -> bool:
        with self._shelf.lock:
            if record.key in self._shelf.sessions:
                return False
            self._shelf.sessions[record.key] = record
            self._shelf.stream_state[record.key] = SessionStreamState()
            return True

    async def find(self, key: SessionKey) -> SessionRecord | None:
        return self._shelf.sessions.get(key)

    async def move(self, key: SessionKey, generation: int, home: str) -> bool:
        with self._shelf.lock:
            record = self._shelf.sessions.get(key)
            if record is None or record.deleted or record.generation != generation:
                return False
            after = generation + 1
            self._shelf.sessions[key] = replace(record, generation=after, home=home)
            for post in self._shelf.requests.values():
                if post.request.key == key and post.state is RelayState.PENDING:
                    post.request = replace(post.request, worker=home, generation=after)
            return True

    async def note(self, record: SessionRecord) -> None:
        self._change(
            record.key,
            fingerprint=record.fingerprint,
            level=record.level,
            subscriptions=record.subscriptions,
        )

    async def touch(self, keys: Iterable[SessionKey], expires_at: float) -> None:
        for key in keys:
            record = self._shelf.sessions.get(key)
            if record is not None and not record.deleted:
                self._change(key, expires_at=expires_at)

    async def delete(self, key: SessionKey, expires_at: float) -> None:
        empty: dict[str, Any] = {"initialize": b"", "level": "", "subscriptions": ()}
        self._change(key, deleted=True, expires_at=expires_at, **empty)

    def _change(self, key: SessionKey, **values: Any) -> None:
        with self._shelf.lock:
            record = self._shelf.sessions.get(key)
            if record is not None:
                self._shelf.sessions[key] = replace(record, **values)

    async def purge(self, now: float, limit: int) -> int:
        with self._shelf.lock:
            late = [r for r in self._shelf.sessions.values() if r.expires_at <= now]
            late = sorted(late, key=lambda record: record.expires_at)[:limit]
            for record in late:
                del self._shelf.sessions[record.key], self._shelf.stream_state[record.key]
            return len(late)

    async def stream_state(self, key: SessionKey) -> SessionStreamState | None:
        return self._shelf.stream_state.get(key)

    async def begin_stream(self, key: SessionKey, stream: bytes) -> None:
        with self._shelf.lock:
            now = self._shelf.stream_state.get(key)
            if now is not None and stream != now.stream:
                self._shelf.stream_state[key] = now._replace(stream=stream, sequence=0)

    async def activate(self, key: SessionKey, turn: int, worker: str) -> bool:
        with self._shelf.lock:
            now = self._shelf.stream_state.get(key)
            if now is None or now.turn != turn:
                return False
            self._shelf.stream_state[key] = now._replace(turn=turn + 1, worker=worker)
            return True

    async def checkpoint(
        self, key: SessionKey, turn: int, worker: str, stream: bytes, sequence: int
    ) -> bool:
        with self._shelf.lock:
            now = self._shelf.stream_state.get(key)
            if now is None:
                return False
            if held := now.turn == turn:
                now = now._replace(worker=worker)
            if stream == now.stream and now.sequence < sequence:
                now = now._replace(sequence=sequence)
            self._shelf.stream_state[key] = now
            return held


class MemoryInbox(Inbox):
    """The relayed requests on a shelf."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf

    async def publish(self, worker: str, public_key: bytes) -> None:
        self._shelf.keys[worker] = public_key

    async def public_key(self, worker: str) -> bytes | None:
        return self._shelf.keys.get(worker)

    def _of(self, worker: str, state: RelayState) -> list[Post]:
        mine = [p for p in self._shelf.requests.values() if p.request.worker == worker]
        found = [post for post in mine if post.state is state]
        return sorted(found, key=lambda post: post.request.id)

    async def put(self, request: RelayRequest, most: int) -> EnqueueResult:
        with self._shelf.lock:
            if request.id in self._shelf.requests:
                raise StoreError(url="memory", reason="the relayed request was tombstoned")
            session = self._shelf.sessions.get(request.key)
            where = (request.worker, request.generation)
            if session is None or session.deleted or (session.home, session.generation) != where:
                return EnqueueResult.MOVED
            if len(self._of(request.worker, RelayState.PENDING)) >= most:
                return EnqueueResult.FULL
            self._shelf.requests[request.id] = Post(request, RelayState.PENDING, request.deadline)
            return EnqueueResult.ENQUEUED

    async def claim(
        self, worker: str, limit: int, now: float, deadline: float
    ) -> list[RelayRequest]:
        with self._shelf.lock:
            waiting = [p for p in self._of(worker, RelayState.PENDING) if p.deadline > now]
            taken = [post.request for post in waiting[:limit]]
            for post in waiting[:limit]:
                post.request = replace(post.request, content=b"")
                post.state, post.deadline = RelayState.CLAIMED, deadline
            return taken

    async def claimed(self, worker: str) -> list[bytes]:
        return [post.request.id for post in self._of(worker, RelayState.CLAIMED)]

    async def renew(
        self, worker: str, requests: Collection[bytes], deadline: float
    ) -> Collection[bytes]:
        with self._shelf.lock:
            mine = [p for p in self._of(worker, RelayState.CLAIMED) if p.request.id in requests]
            for post in mine:
                post.deadline = deadline
            return [post.request.id for post in mine]

    async def withdraw(self, request: RelayRequestId) -> bool:
        with self._shelf.lock:
            post = self._shelf.requests.get(request.id)
            if post is None or post.state is not RelayState.PENDING:
                return False
            del self._shelf.requests[request.id]
            return True

    async def tombstone(self, request: RelayRequestId, deadline: float, reply: bytes = b"") -> bool:
        with self._shelf.lock:
            if request.id in self._shelf.requests:
                return False
            nobody = RelayRequest(
                request.id, SessionKey("", "", ""), "", 0, deadline, b"", sealed=False
            )
            self._shelf.requests[request.id] = Post(nobody, RelayState.REPLIED, deadline, reply)
            return True

    async def answer(self, request: bytes, worker: str, reply: bytes, deadline: float) -> bool:
        with self._shelf.lock:
            post = self._shelf.requests.get(request)
            if post is None or post.state is not RelayState.CLAIMED:
                return False
            if post.request.worker != worker:
                return False
            post.state, post.reply, post.deadline = RelayState.REPLIED, reply, deadline
            return True

    async def look(self, request: RelayRequestId) -> RelayStatus | None:
        post = self._shelf.requests.get(request.id)
        if post is None:
            return None
        is_overdue = post.state is RelayState.CLAIMED and post.deadline < self.now()
        certainty = Certainty.OVERDUE if is_overdue else Certainty.KNOWN
        return RelayStatus(post.state, post.request.worker, post.reply, certainty)

    async def remove(self, requests: Collection[RelayRequestId]) -> None:
        for request in requests:
            self._shelf.requests.pop(request.id, None)

    async def purge(self, now: float, limit: int) -> int:
        with self._shelf.lock:
            late = [p for p in self._shelf.requests.values() if p.deadline <= now]
            late = sorted(late, key=lambda post: post.deadline)[:limit]
            for post in late:
                del self._shelf.requests[post.request.id]
            return len(late)
