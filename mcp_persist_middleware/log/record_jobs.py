"""Jobs over small records by key."""

import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from urllib.parse import quote

from mcp_persist_middleware.log.jobs import UNBOUNDED, Jobs
from mcp_persist_middleware.log.records import Fields, Records
from mcp_persist_middleware.log.whose import Whose
from mcp_persist_middleware.model import (
    JobCreation,
    JobFace,
    JobRecord,
    Owner,
    Place,
    StreamRecord,
    StreamState,
)

# A stream that is not there has not begun yet, or has gone: which of the two, time tells (seconds).
_BEGINS = 60.0
_CHANGES = ("worker", "stream", "updated_at", "expires_at", "round", "inputs")


class RecordJobs(Jobs):
    """`Jobs` over records.

    Args:
        find_stream: finds a stream's record.
    """

    def __init__(
        self, records: Records, find_stream: Callable[[bytes], Awaitable[StreamRecord | None]]
    ) -> None:
        self._records = records
        self._find_stream = find_stream

    async def create(self, job: JobRecord, most: int, most_of_one: int) -> JobCreation:
        for bound, account in ((most_of_one, job.account), (most, None)):
            if not await self._make_room(bound, account):
                return JobCreation.FULL
        if job.key and not await self._take_key(job):
            return JobCreation.TAKEN
        is_new = await self._records.create(_name(job.id), _fields(job))
        return JobCreation.CREATED if is_new else JobCreation.TAKEN

    async def _take_key(self, job: JobRecord) -> bool:
        """Take a key that nobody has, or somebody whose job is over."""
        name, mine = _key_name(job.owner.place, job.key), {"job": job.id, "at": self.now()}
        if await self._records.create(name, mine):
            return True
        held = await self._records.read(name)
        if held is None:
            return await self._records.create(name, mine)
        other = await self.find(held["job"])
        # Whoever begins has the key before its job is there.
        until = held["at"] + _BEGINS if other is None else other.expires_at
        if until > self.now():
            return False
        taken = await self._records.change(name, lambda it: mine if it == held else None)
        if taken and other is not None:
            await self._records.remove(_name(other.id))
        return taken

    async def _make_room(self, most: int, account: str | None) -> bool:
        if most >= UNBOUNDED:
            return True
        found = [job async for job in self._all() if account in (None, job.account)]
        excess = len(found) + 1 - most
        for job in sorted(found, key=lambda job: job.id) if excess > 0 else ():
            if excess > 0 and await self._has_ended(job):
                excess -= await self.remove([job.id])
        return excess <= 0

    async def _has_ended(self, job: JobRecord) -> bool:
        now = self.now()
        stream = await self._find_stream(job.stream)
        if stream is None:
            return job.created_at <= now - _BEGINS or job.expires_at <= now
        return stream.state is not StreamState.OPEN or job.expires_at <= now

    async def _all(self) -> AsyncIterator[JobRecord]:
        async for _, fields in self._records.all("job/"):
            yield _job(fields)

    async def find(self, job: bytes) -> JobRecord | None:
        fields = await self._records.read(_name(job))
        return None if fields is None else _job(fields)

    async def find_key(self, place: Place, key: str) -> JobRecord | None:
        held = await self._records.read(_key_name(place, key))
        job = await self.find(held["job"]) if held is not None else None
        return job if job is not None and job.expires_at > self.now() else None

    async def of_streams(self, streams: Collection[bytes]) -> Sequence[JobRecord]:
        return [job async for job in self._all() if job.stream in streams]

    async def change(self, job: JobRecord) -> bool:
        told = {name: getattr(job, name) for name in _CHANGES} | {"revision": job.revision + 1}
        return await self._records.change(
            _name(job.id), lambda it: told if it["revision"] == job.revision else None
        )

    async def list(self, account: str | None, before: bytes, limit: int) -> Sequence[JobRecord]:
        found = [
            job
            async for job in self._all()
            if account in (None, job.account) and (not before or job.id < before)
        ]
        return sorted(found, key=lambda job: job.id, reverse=True)[:limit]

    async def remove(self, ids: Collection[bytes]) -> int:
        return sum([await self._remove(each) for each in ids])

    async def _remove(self, name: bytes) -> bool:
        job = await self.find(name)
        if job is None or not await self._records.remove(_name(name)):
            return False
        if job.key:
            key = _key_name(job.owner.place, job.key)
            await self._records.remove(key, lambda it: bool(it["job"] == name))
        return True

    async def purge(self, now: float, limit: int) -> Sequence[JobRecord]:
        late = [job async for job in self._all() if job.expires_at <= now]
        oldest = sorted(late, key=lambda job: job.expires_at)[:limit]
        return [job for job in oldest if await self._remove(job.id)]

    async def forget(self, whose: Whose) -> int:
        return await self.remove([job.id async for job in self._all() if whose.has(job.owner)])


def _name(job: bytes) -> str:
    return f"job/{job.hex()}"


def _key_name(place: Place, key: str) -> str:
    where = "/".join(quote(part, safe="", errors="surrogatepass") for part in place)
    return f"key/{where}/{quote(key, safe='')}"


def _fields(job: JobRecord) -> Fields:
    return dataclasses.asdict(job)


def _job(fields: Fields) -> JobRecord:
    owner, face = Owner(**fields["owner"]), JobFace(fields["face"])
    return JobRecord(**fields | {"owner": owner, "face": face})
