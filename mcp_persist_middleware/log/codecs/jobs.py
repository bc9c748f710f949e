"""Jobs with the codecs in front: what a job keeps of its client is encoded."""

import dataclasses
from collections.abc import Collection, Sequence

from mcp_persist_middleware import rarely, telemetry
from mcp_persist_middleware.log.codecs.chain import Bound
from mcp_persist_middleware.log.codecs.parts import Blobs
from mcp_persist_middleware.log.jobs import Jobs
from mcp_persist_middleware.log.whose import Whose
from mcp_persist_middleware.model import JobCreation, JobRecord, Place

logger = rarely.logger(__name__)

_REQUEST, _INPUTS = b"request", b"inputs"


class CodedJobs(Jobs):
    """`Jobs` whose requests and inputs are encoded."""

    def __init__(self, inner: Jobs, blobs: Blobs, store: str) -> None:
        self.inner = inner
        self._blobs = blobs
        self._store = store

    def now(self) -> float:
        return self.inner.now()

    async def create(self, job: JobRecord, most: int, most_of_one: int) -> JobCreation:
        return await self.inner.create(await self._encoded(job), most, most_of_one)

    async def find(self, job: bytes) -> JobRecord | None:
        return await self._decoded(await self.inner.find(job))

    async def find_key(self, place: Place, key: str) -> JobRecord | None:
        return await self._decoded(await self.inner.find_key(place, key))

    async def of_streams(self, streams: Collection[bytes]) -> Sequence[JobRecord]:
        # As with a list.
        return await self.inner.of_streams(streams)

    async def change(self, job: JobRecord) -> bool:
        return await self.inner.change(await self._encoded(job))

    async def list(self, account: str | None, before: bytes, limit: int) -> Sequence[JobRecord]:
        # Whoever lists them looks at none of what is encoded.
        return await self.inner.list(account, before, limit)

    async def remove(self, ids: Collection[bytes]) -> int:
        return await self.inner.remove(ids)

    async def purge(self, now: float, limit: int) -> Sequence[JobRecord]:
        # As with a list.
        return await self.inner.purge(now, limit)

    async def forget(self, whose: Whose) -> int:
        return await self.inner.forget(whose)

    async def _encoded(self, job: JobRecord) -> JobRecord:
        if self._blobs.is_idle:
            return job
        request = job.request and await self._encode(job.request, Bound.of_job(job.id, _REQUEST))
        inputs = await self._encode(job.inputs, Bound.of_job(job.id, _INPUTS))
        return dataclasses.replace(job, request=request, inputs=inputs)

    async def _encode(self, data: bytes, bound: Bound) -> bytes:
        return await self._blobs.away(len(data), lambda: self._blobs.encode(data, bound))

    async def _decoded(self, job: JobRecord | None) -> JobRecord | None:
        if job is None or not (
            self._blobs.is_encoded(job.request) or self._blobs.is_encoded(job.inputs)
        ):
            return job
        try:
            request = job.request and await self._decode(
                job.request, Bound.of_job(job.id, _REQUEST)
            )
            inputs = await self._decode(job.inputs, Bound.of_job(job.id, _INPUTS))
        except ValueError as error:
            # Then its application is not asked again, as if that had not been kept.
            telemetry.unreadable.add(1, {"what": "job"})
            logger.error("MPM-STORE-14: In %s a job cannot be read: %s", self._store, error)
            request, inputs = None, b""
        return dataclasses.replace(job, request=request, inputs=inputs)

    async def _decode(self, blob: bytes, bound: Bound) -> bytes:
        return await self._blobs.away(len(blob), lambda: self._blobs.decode(blob, bound))
