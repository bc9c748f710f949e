"""The parts of a store beside its streams with the codecs in front: the `initialize` bodies of
sessions, and what relayed requests and replies contain."""

import dataclasses
import logging
from collections.abc import Callable
from typing import Protocol, TypeVar

from mcp_persist_middleware import telemetry
from mcp_persist_middleware.errors import UnreadableRowError
from mcp_persist_middleware.log.codecs.chain import RAW, Bound, Chain
from mcp_persist_middleware.log.outer_parts import OuterInbox, OuterSessions
from mcp_persist_middleware.log.parts import Inbox, Sessions
from mcp_persist_middleware.model import (
    EnqueueResult,
    RelayRequest,
    RelayRequestId,
    RelayStatus,
    SessionKey,
    SessionRecord,
)

T = TypeVar("T")

logger = logging.getLogger(__name__)

# Before a codec and what it made. Nothing else that is stored begins so: no JSON text, nothing that
# zlib packs, no length of a head.
_MARK = b"\xffmcp"


class Away(Protocol):
    """Runs a function that has to do with so many bytes."""

    async def __call__(self, size: int, work: Callable[[], T]) -> T:
        """What the function returns."""


class Blobs:
    """Bytes that say themselves how they are written: there is no column beside them for it."""

    def __init__(self, chain: Chain, away: Away) -> None:
        self._chain = chain
        self.away = away

    @property
    def is_idle(self) -> bool:
        """Whether what is written now stays as it is."""
        return self._chain.is_idle

    @staticmethod
    def is_encoded(blob: bytes | None) -> bool:
        """Whether it is not as it was given."""
        return blob is not None and blob.startswith(_MARK)

    def encode(self, data: bytes, bound: Bound) -> bytes:
        """What to store."""
        codec, payload = self._chain.encode(data, bound) if data else (RAW, data)
        return data if codec == RAW else _MARK + bytes([codec]) + payload

    def decode(self, blob: bytes, bound: Bound) -> bytes:
        """What was encoded.

        Raises:
            ValueError: it cannot be read here; the text says why.
        """
        written = self.codec_of(blob)
        return blob if written is None else self._chain.decode(*written, bound)

    @classmethod
    def codec_of(cls, blob: bytes) -> tuple[int, bytes] | None:
        """The codec and the payload of what is not as it was given."""
        if not cls.is_encoded(blob):
            return None
        at = len(_MARK)
        return (blob[at] if len(blob) > at else 255), blob[at + 1 :]


def _unreadable(store: str, what: str, error: ValueError) -> UnreadableRowError:
    telemetry.unreadable.add(1, {"what": what})
    return UnreadableRowError(url=store, what=what, reason=str(error))


class CodedSessions(OuterSessions):
    """`Sessions` whose `initialize` bodies are encoded."""

    def __init__(self, inner: Sessions, blobs: Blobs, store: str) -> None:
        super().__init__(inner)
        self._blobs = blobs
        self._store = store

    async def create(self, record: SessionRecord) -> bool:
        body = self._blobs.encode(record.initialize, Bound.of_session(record.key))
        return await self.inner.create(dataclasses.replace(record, initialize=body))

    async def find(self, key: SessionKey) -> SessionRecord | None:
        record = await self.inner.find(key)
        if record is None or not self._blobs.is_encoded(record.initialize):
            return record
        try:
            body = self._blobs.decode(record.initialize, Bound.of_session(key))
        except ValueError as error:
            raise _unreadable(self._store, "session", error) from error
        return dataclasses.replace(record, initialize=body)


class CodedInbox(OuterInbox):
    """`Inbox` whose replies are encoded, and the relayed requests that are not sealed."""

    def __init__(self, inner: Inbox, blobs: Blobs, store: str) -> None:
        super().__init__(inner)
        self._blobs = blobs
        self._store = store

    async def put(self, request: RelayRequest, most: int) -> EnqueueResult:
        if not request.sealed:
            content = await self._encoded(request.content, Bound.of_relayed(request.id, b"content"))
            request = dataclasses.replace(request, content=content)
        return await self.inner.put(request, most)

    async def claim(
        self, worker: str, limit: int, now: float, deadline: float
    ) -> list[RelayRequest]:
        claimed = await self.inner.claim(worker, limit, now, deadline)
        return [
            opened for request in claimed if (opened := await self._opened(request)) is not None
        ]

    async def _opened(self, request: RelayRequest) -> RelayRequest | None:
        if request.sealed or not self._blobs.is_encoded(request.content):
            return request
        try:
            content = await self._decoded(request.content, Bound.of_relayed(request.id, b"content"))
        except ValueError as error:
            # Nobody runs it: its sender finds it overdue, and says so.
            logger.error("MPM-STORE-14: %s", _unreadable(self._store, "relayed request", error))
            return None
        return dataclasses.replace(request, content=content)

    async def tombstone(self, request: RelayRequestId, deadline: float, reply: bytes = b"") -> bool:
        reply = await self._encoded(reply, Bound.of_relayed(request.id, b"reply"))
        return await self.inner.tombstone(request, deadline, reply)

    async def answer(self, request: bytes, worker: str, reply: bytes, deadline: float) -> bool:
        reply = await self._encoded(reply, Bound.of_relayed(request, b"reply"))
        return await self.inner.answer(request, worker, reply, deadline)

    async def look(self, request: RelayRequestId) -> RelayStatus | None:
        status = await self.inner.look(request)
        if status is None or not self._blobs.is_encoded(status.reply):
            return status
        try:
            reply = await self._decoded(status.reply, Bound.of_relayed(request.id, b"reply"))
        except ValueError as error:
            raise _unreadable(self._store, "relayed request", error) from error
        return status._replace(reply=reply)

    async def _encoded(self, data: bytes, bound: Bound) -> bytes:
        if self._blobs.is_idle:
            return data
        return await self._blobs.away(len(data), lambda: self._blobs.encode(data, bound))

    async def _decoded(self, blob: bytes, bound: Bound) -> bytes:
        return await self._blobs.away(len(blob), lambda: self._blobs.decode(blob, bound))
