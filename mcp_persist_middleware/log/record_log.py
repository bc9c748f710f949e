"""An `EventLog` of which only the streams are to be written."""

import dataclasses
import secrets
from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property

from mcp_persist_middleware.errors import StoreError
from mcp_persist_middleware.log import mirror
from mcp_persist_middleware.log.base import EventLog
from mcp_persist_middleware.log.deletions import MOST, Deletion, Reason
from mcp_persist_middleware.log.record_jobs import RecordJobs
from mcp_persist_middleware.log.record_parts import RecordInbox, RecordSessions, RecordWorkers
from mcp_persist_middleware.log.records import Records
from mcp_persist_middleware.model import Beat, StreamRecord, StreamState

_PAGE = 256
# A note that nobody asks for any more.
_OVER_SECONDS = 3600.0


class RecordLog(EventLog):
    """Begin a store with it: sessions, relayed requests, jobs, workers and readers are kept as
    `Records`, of which the store need know nothing more. What your store does better is
    overridden.

    It looks at all sessions, relayed requests or open streams where one of ours asks an index: good
    for thousands, not for millions.
    """

    _worker = ""

    @abstractmethod
    def make_records(self) -> Records:
        """Records that are not connected: once for this log, and once for each heartbeat, which is
        in a thread and on an event loop of its own."""

    @abstractmethod
    async def open_streams(self, after: bytes, limit: int) -> Sequence[StreamRecord]:
        """The first open streams whose id is above another, in the order of their ids."""

    @cached_property
    def records(self) -> Records:
        """Those of this event loop."""
        return self.make_records()

    @property
    def name(self) -> str:
        return type(self).__name__

    @property
    def secret(self) -> bytes:
        return self._secret

    @cached_property
    def sessions(self) -> RecordSessions:
        return RecordSessions(self.records)

    @cached_property
    def inbox(self) -> RecordInbox:
        return RecordInbox(self.records)

    @cached_property
    def jobs(self) -> RecordJobs:
        return RecordJobs(self.records, self.find)

    @cached_property
    def _workers(self) -> RecordWorkers:
        return RecordWorkers(self.records)

    async def open(self, worker: str) -> None:
        await self.records.create("secret", {"secret": secrets.token_bytes(32)})
        await self._check_whole(worker)
        self._secret: bytes = (await self.records.read("secret") or {})["secret"]
        await self._workers.enrol(worker)
        self._worker = worker

    async def _check_whole(self, worker: str) -> None:
        """Refuse to serve what is being copied, and end that it may be copied into."""
        if worker.startswith(mirror.COPIER):
            return
        note = await self.records.read(mirror.NAME)
        if note is not None:
            mirror.check(self.name, "records", note["value"])
            await self.records.remove(mirror.NAME)

    async def aclose(self) -> None:
        worker, self._worker = self._worker, ""
        try:
            if worker:
                await self.deregister(worker)
        finally:
            await self.records.aclose()

    def must_be_open(self) -> None:
        """Raise `StoreError` when it is not."""
        if not self._worker:
            raise StoreError(url=self.name, reason="it is not open")

    async def ping(self) -> None:
        self.must_be_open()
        if not await self.records.change("ping", lambda _: {"by": self._worker}):
            await self.records.create("ping", {"by": self._worker})

    async def renew_readers(self, streams: Collection[bytes], seconds: float) -> None:
        until = {"until": self.now() + seconds}
        over = self.now() - _OVER_SECONDS
        for stream in streams:
            record, key = await self.find(stream), f"reader/{stream.hex()}"
            is_open = record is not None and record.state is StreamState.OPEN
            if is_open and not await self.records.create(key, until):
                await self.records.change(
                    key, lambda note: until if note["until"] < until["until"] else None
                )
        async for key, note in self.records.all("reader/"):
            if note["until"] < over:
                await self.records.remove(f"reader/{key}", lambda it: bool(it["until"] < over))

    async def reader_ttl(self, stream: bytes) -> float | None:
        note = await self.records.read(f"reader/{stream.hex()}")
        if note is None or await self.find(stream) is None:
            return None
        return float(note["until"]) - self.now()

    def worker_table(self) -> RecordWorkers:
        return RecordWorkers(self.make_records())

    async def workers(self) -> Mapping[str, Beat]:
        return await self._workers.look()

    async def declare_dead(self, worker: str, counter: int) -> bool:
        return await self._workers.declare_dead(worker, counter)

    async def deregister(self, worker: str) -> None:
        await self._workers.deregister(worker)

    async def active_writers(self) -> list[str]:
        active_writers, after = set[str](), b""
        while found := await self.open_streams(after, _PAGE):
            active_writers |= {record.worker for record in found}
            after = found[-1].id
        return sorted(active_writers)

    async def open_streams_of(
        self, worker: str, limit: int, after: bytes = b""
    ) -> list[StreamRecord]:
        left: list[StreamRecord] = []
        while len(left) < limit and (found := await self.open_streams(after, _PAGE)):
            left += [record for record in found if record.worker == worker]
            after = found[-1].id
        return left[:limit]

    async def note_deletions(self, deletions: Sequence[Deletion]) -> None:
        for each in deletions:
            await self.records.create(f"deletion/{each.key()}", dataclasses.asdict(each))
        names = [name async for name, _ in self.records.all("deletion/")]
        for name in names[:-MOST]:
            await self.records.remove(f"deletion/{name}")

    async def deletions(self, limit: int) -> Sequence[Deletion]:
        kept = [fields async for _, fields in self.records.all("deletion/")]
        found = kept[::-1][:limit]
        return [Deletion(**fields | {"reason": Reason(fields["reason"])}) for fields in found]
