"""The parts of a log, each in front of another log's."""

from collections.abc import Callable, Collection, Iterable, Sequence

from mcp_persist_middleware.log.parts import Inbox, Sessions
from mcp_persist_middleware.log.whose import Whose
from mcp_persist_middleware.model import (
    EnqueueResult,
    RelayRequest,
    RelayRequestId,
    RelayStatus,
    SessionKey,
    SessionRecord,
    SessionStreamState,
)


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
