"""The journal of a store with the codecs in front: the parameters that an entry keeps are as
confidential as the events of its stream."""

import dataclasses
from collections.abc import Sequence

from mcp_persist_middleware.log.codecs.chain import Bound
from mcp_persist_middleware.log.codecs.parts import Blobs
from mcp_persist_middleware.log.journal import Journal, JournalEntry, Sought
from mcp_persist_middleware.log.whose import Whose


class CodedJournal(Journal):
    """`Journal` whose parameters are encoded. Those that cannot be read are left out."""

    def __init__(self, inner: Journal, blobs: Blobs) -> None:
        self.inner = inner
        self._blobs = blobs

    def now(self) -> float:
        return self.inner.now()

    async def write(self, entries: Sequence[JournalEntry]) -> None:
        if not self._blobs.is_idle:
            entries = [self._encoded(each) if each.params else each for each in entries]
        await self.inner.write(entries)

    def _encoded(self, entry: JournalEntry) -> JournalEntry:
        params = self._blobs.encode(entry.params, Bound.of_entry(entry.id))
        return dataclasses.replace(entry, params=params)

    async def find(self, sought: Sought, limit: int, *, before: str = "") -> Sequence[JournalEntry]:
        found = await self.inner.find(sought, limit, before=before)
        return [_readable(entry, self._blobs) for entry in found]

    async def purge(self, until: float, most: int, limit: int) -> int:
        return await self.inner.purge(until, most, limit)

    async def forget(self, whose: Whose) -> int:
        return await self.inner.forget(whose)


def decoded(entry: JournalEntry, blobs: Blobs) -> JournalEntry:
    """An entry with its parameters.

    Raises:
        ValueError: they cannot be read here.
    """
    if not Blobs.is_encoded(entry.params):
        return entry
    return dataclasses.replace(entry, params=blobs.decode(entry.params, Bound.of_entry(entry.id)))


def _readable(entry: JournalEntry, blobs: Blobs) -> JournalEntry:
    """An entry with its parameters, or without where they cannot be read."""
    try:
        return decoded(entry, blobs)
    except ValueError:
        return dataclasses.replace(entry, params=b"")
