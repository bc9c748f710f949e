"""The log in front of a store that writes payloads as the settings say, and reads what any settings
wrote. What cannot be read is a gap of its own stream, and an error where it was the answer."""

import asyncio
import dataclasses
import json
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from mcp_persist_middleware import telemetry
from mcp_persist_middleware.log.base import Answers, EventLog
from mcp_persist_middleware.log.codecs.chain import Bound, Chain, size_of
from mcp_persist_middleware.log.codecs.jobs import CodedJobs
from mcp_persist_middleware.log.codecs.journal import CodedJournal
from mcp_persist_middleware.log.codecs.parts import Blobs, CodedInbox, CodedSessions
from mcp_persist_middleware.log.jobs import Jobs
from mcp_persist_middleware.log.journal import Journal
from mcp_persist_middleware.log.outer import OuterLog
from mcp_persist_middleware.log.parts import Inbox, Sessions
from mcp_persist_middleware.model import Event, EventKind, Outcome, StreamRecord, StreamWrite
from mcp_persist_middleware.protocol import jsonrpc, sse
from mcp_persist_middleware.settings import Settings

T = TypeVar("T")

logger = logging.getLogger(__name__)

# To compress so much takes about a millisecond: the event loop is not held for longer.
_LARGE = 64 * 1024
_THREADS = 2
_LOST = "The answer to this request is in the store, and cannot be read here"
_MOST_REASONS = 64
_ENCODE, _DECODE = {"operation": "encode"}, {"operation": "decode"}
_PLAIN, _STORED = {"side": "plain"}, {"side": "stored"}


class CodedLog(OuterLog):
    """Any `EventLog` with the codecs of the settings in front."""

    def __init__(self, inner: EventLog, settings: Settings) -> None:
        super().__init__(inner)
        self._chain = Chain(settings)
        self._threads: ThreadPoolExecutor | None = None
        self._told: set[str] = set()
        blobs = Blobs(self._chain, self._away)
        self._sessions = CodedSessions(inner.sessions, blobs, inner.name)
        self._inbox = CodedInbox(inner.inbox, blobs, inner.name)
        jobs = inner.jobs
        self._jobs = None if jobs is None else CodedJobs(jobs, blobs, inner.name)
        journal = inner.journal
        self._journal = None if journal is None else CodedJournal(journal, blobs)
        self._blobs = blobs

    @property
    def journal(self) -> Journal | None:
        return self._journal

    @property
    def sessions(self) -> Sessions:
        return self._sessions

    @property
    def inbox(self) -> Inbox:
        return self._inbox

    @property
    def jobs(self) -> Jobs | None:
        return self._jobs

    async def aclose(self) -> None:
        try:
            await self.inner.aclose()
        finally:
            threads, self._threads = self._threads, None
            if threads is not None:
                threads.shutdown(wait=False)

    async def append(self, batch: Sequence[StreamWrite]) -> list[Outcome]:
        if self._chain.is_idle:
            return await self.inner.append(batch)
        size, began = sum(write.size for write in batch), time.monotonic()
        coded = await self._away(size, lambda: [self._encoded(write) for write in batch])
        telemetry.codec_seconds.record(time.monotonic() - began, _ENCODE)
        telemetry.codec_bytes.add(size, _PLAIN)
        telemetry.codec_bytes.add(sum(write.size for write in coded), _STORED)
        return await self.inner.append(coded)

    def _encoded(self, write: StreamWrite) -> StreamWrite:
        created = write.create
        if created is not None and created.request is not None:
            request = self._blobs.encode(created.request, Bound.of_request(write.id))
            created = dataclasses.replace(created, request=request)
        events = []
        for event in write.events:
            codec, payload = self._chain.encode(event.frame, _bound(write.id, event))
            events.append(event._replace(frame=payload, codec=codec))
        return dataclasses.replace(write, create=created, events=tuple(events))

    async def find(self, stream: bytes) -> StreamRecord | None:
        record = await self.inner.find(stream)
        return None if record is None else self._decoded_record(record)

    async def open_streams_of(
        self, worker: str, limit: int, after: bytes = b""
    ) -> list[StreamRecord]:
        left = await self.inner.open_streams_of(worker, limit, after)
        return [self._decoded_record(record) for record in left]

    def _decoded_record(self, record: StreamRecord) -> StreamRecord:
        if not Blobs.is_encoded(record.request):
            return record
        request: bytes | None = None
        try:
            request = self._blobs.decode(record.request or b"", Bound.of_request(record.id))
        except ValueError as error:
            # Then it is not run again, as if it had not been kept.
            self._tell("request", 1, str(error))
        return dataclasses.replace(record, request=request)

    async def read(self, stream: bytes, after: int, max_events: int, max_bytes: int) -> list[Event]:
        while True:
            found = await self.inner.read(stream, after, max_events, max_bytes)
            if not any(event.codec for event in found):
                return found
            page = _fitting(found, max_bytes)
            if events := await self._decoded(stream, page):
                return events
            after = page[-1].sequence

    async def answers(self, stream: bytes, after: int = 0) -> Answers:
        found = await self.inner.answers(stream, after)
        return Answers(found.last, await self._decoded(stream, found.events))

    async def _decoded(self, stream: bytes, page: Sequence[Event]) -> list[Event]:
        """What can be read of a page: what cannot is a gap in it, and an error where it was the
        answer."""
        size = sum(size_of(event.codec, event.frame) for event in page)
        began = time.monotonic()
        each = await self._away(size, lambda: [self._frame(stream, event) for event in page])
        telemetry.codec_seconds.record(time.monotonic() - began, _DECODE)
        reasons = [reason for _, reason in each if reason]
        if not reasons:
            return [event for event, _ in each]
        for reason in dict.fromkeys(reasons):
            self._tell("event", reasons.count(reason), reason)
        lost = [event for event, reason in each if reason and event.kind is EventKind.RESPONSE]
        frame = await self._error(stream) if lost else None
        return [
            event._replace(frame=frame or b"", codec=0) if reason else event
            for event, reason in each
            if not reason or (frame is not None and event.kind is EventKind.RESPONSE)
        ]

    def _frame(self, stream: bytes, event: Event) -> tuple[Event, str]:
        """An event as it was given, or as it is and why it cannot be read."""
        try:
            frame = self._chain.decode(event.codec, event.frame, _bound(stream, event))
        except ValueError as error:
            return event, str(error)
        return event._replace(frame=frame, codec=0), ""

    async def _error(self, stream: bytes) -> bytes | None:
        """What its client gets in the place of an answer that cannot be read."""
        record = await self.inner.find(stream)
        request_ids = json.loads(record.request_ids) if record is not None else []
        if len(request_ids) != 1:
            return None
        error = jsonrpc.error(request_ids[0], _LOST, {"resumable": False}, jsonrpc.INTERRUPTED)
        return sse.event(error)

    def _tell(self, what: str, count: int, reason: str) -> None:
        telemetry.unreadable.add(count, {"what": what})
        level = logging.DEBUG if reason in self._told else logging.ERROR
        if len(self._told) < _MOST_REASONS:
            self._told.add(reason)
        logger.log(
            level, "MPM-STORE-14: In %s %d %ss cannot be read: %s", self.name, count, what, reason
        )

    async def _away(self, size: int, work: Callable[[], T]) -> T:
        """What a function makes of so many bytes, in a thread of ours where they are many: the
        application may keep all of the event loop's own busy."""
        if size < _LARGE:
            return work()
        if self._threads is None:
            self._threads = ThreadPoolExecutor(_THREADS, "mcp-persist-codecs")
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


def _bound(stream: bytes, event: Event) -> Bound:
    return Bound.of_event(stream, event.epoch, event.sequence, event.kind)


def _fitting(events: Sequence[Event], max_bytes: int) -> Sequence[Event]:
    """As many of the first as fit when they are decoded, at least one."""
    total = 0
    for n, event in enumerate(events):
        total += size_of(event.codec, event.frame)
        if n and total > max_bytes:
            return events[:n]
    return events
