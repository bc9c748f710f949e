"""The part of a store that knows the jobs. A store need not have it: then no call becomes one."""

import sys
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from typing import Final

from mcp_persist_middleware.log.clock import Timed
from mcp_persist_middleware.log.whose import Whose
from mcp_persist_middleware.model import JobCreation, JobRecord, Place

UNBOUNDED: Final = sys.maxsize
"""A bound of `create` for who brings jobs that were counted elsewhere."""


class Jobs(Timed, ABC):
    """The jobs that every worker on a store shares: small records, each of a stream.

    A job has ended when its stream has. Every method raises `StoreError` when the store does not do
    it.
    """

    @abstractmethod
    async def create(self, job: JobRecord, most: int, most_of_one: int) -> JobCreation:
        """Commit a new job. One of the same key that has expired makes way for it.

        Where there are `most` of all, or `most_of_one` of its account, the oldest of those that
        have ended are forgotten for it. The bounds may be overstepped by as many as are created at
        the same time, that of all by what other workers have created since this one has counted; a
        key is given once all the same.
        """

    @abstractmethod
    async def find(self, job: bytes) -> JobRecord | None:
        """A job by its id, also one that has expired; None when there is none or it was purged."""

    @abstractmethod
    async def find_key(self, place: Place, key: str) -> JobRecord | None:
        """The job of a key that has not expired."""

    @abstractmethod
    async def of_streams(self, streams: Collection[bytes]) -> Sequence[JobRecord]:
        """The jobs that these streams answer, in no order; `request` and `inputs` may be left out.
        It is asked when a worker has died, and may look at every job."""

    @abstractmethod
    async def change(self, job: JobRecord) -> bool:
        """Put a job in the place of what is there of it in the same revision, which goes up by one;
        False when somebody else was first, or it is gone. Where, whose and what it is, its key
        and its request stay as they are."""

    @abstractmethod
    async def list(self, account: str | None, before: bytes, limit: int) -> Sequence[JobRecord]:
        """The newest jobs, of one account or of all, from before one on where `before` names it;
        expired ones included."""

    @abstractmethod
    async def remove(self, ids: Collection[bytes]) -> int:
        """Forget these jobs; how many went. Their streams stay."""

    @abstractmethod
    async def purge(self, now: float, limit: int) -> Sequence[JobRecord]:
        """Remove at most `limit` jobs that have expired by `now`; those that went, each for one of
        all who ask. Of a `request` it may say no more than that there was one."""

    @abstractmethod
    async def forget(self, whose: Whose) -> int:
        """Remove the jobs that belong to somebody; how many went."""
