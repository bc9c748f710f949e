"""What a store of streams need not have. One that lists its streams and removes some of them can
erase what belongs to somebody, and can be kept within bounds."""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Collection, Sequence

from mcp_persist_middleware.errors import UnsupportedError
from mcp_persist_middleware.log.amounts import Purged, Written
from mcp_persist_middleware.log.clock import Timed
from mcp_persist_middleware.log.deletions import Deletion
from mcp_persist_middleware.log.whose import Whose
from mcp_persist_middleware.model import StreamRecord, StreamState

_PAGE = 100


class Listing(Timed, ABC):
    """The optional part of an `EventLog`. What is made of the rest looks at every stream: a store
    that can tell without does so."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The store's address without its secrets, for messages."""

    @abstractmethod
    async def written(self, stream: bytes, after: int = 0) -> Written:
        """How much there is of a stream after a number."""

    def _lacks(self, method: str) -> UnsupportedError:
        return UnsupportedError(url=self.name, kind=type(self).__name__, method=method)

    async def streams(
        self, after: bytes, limit: int, *, newest_first: bool = False
    ) -> Sequence[StreamRecord]:
        """Streams, open and ended, in the order of their ids, which is that of their age, or in the
        opposite one: those that come behind one, from the beginning where `after` is empty. There
        are none left where there is none in it."""
        del after, limit, newest_first
        raise self._lacks("streams")

    async def streams_of(self, whose: Whose, after: bytes, limit: int) -> Sequence[StreamRecord]:
        """The same of those that belong to somebody, the oldest first."""
        while page := await self.streams(after, limit):
            if found := [record for record in page if whose.has(record.owner)]:
                return found
            after = page[-1].id
        return ()

    async def ids_of(self, whose: Whose, after: bytes, limit: int) -> Sequence[bytes]:
        """The ids of the same, those too whose record cannot be read."""
        return [record.id for record in await self.streams_of(whose, after, limit)]

    async def remove(
        self, streams: Collection[bytes], max_events: int, *, ended: bool = False
    ) -> Purged:
        """Make streams unreadable, and remove a bounded part of them: events first, streams last,
        from when on their writers are fenced. `more` when it did not get to the end: whoever asks
        again, or `purge`, goes on with it.

        Args:
            ended: one that is open is left alone.
        """
        del streams, max_events, ended
        raise self._lacks("remove")

    async def _newest(self, namespace: str | None = None) -> AsyncIterator[StreamRecord]:
        """All streams, the newest first, or those of a namespace that have ended."""
        after = b""
        while page := await self.streams(after, _PAGE, newest_first=True):
            after = page[-1].id
            for record in page:
                is_ended = record.state is not StreamState.OPEN
                if namespace is None or (is_ended and record.owner.namespace == namespace):
                    yield record

    async def size(self) -> int:
        """How large the store is, in bytes, by a measure of its own that falls when something is
        removed."""
        return sum([(await self.written(record.id)).size async for record in self._newest()])

    async def namespaces(self) -> Collection[str]:
        """Those that have streams."""
        return {record.owner.namespace async for record in self._newest()}

    async def beyond(self, namespace: str, most: int, *, in_bytes: bool = False) -> bytes:
        """The newest stream of a namespace's ended ones that goes beyond so many of the newest, or
        beyond so many bytes of their events; empty where none does."""
        kept = 0
        async for record in self._newest(namespace):
            kept += (await self.written(record.id)).size if in_bytes else 1
            if kept > most:
                return record.id
        return b""

    async def note_deletions(self, deletions: Sequence[Deletion]) -> None:
        """Keep that something was removed, of all that is kept the newest `deletions.MOST`. A store
        that does not keep it says nothing of it later."""

    async def deletions(self, limit: int) -> Sequence[Deletion]:
        """What was removed of late, the newest first."""
        del limit
        raise self._lacks("deletions")
