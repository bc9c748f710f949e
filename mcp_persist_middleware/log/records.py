"""Small records by key: all that a store has to get, to swap and to list for what it has beside its
streams."""

import base64
import json
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from mcp_persist_middleware.errors import UnreadableRowError

_PAGE = 256

Fields = dict[str, Any]


class Records(ABC):
    """Small records by key, which all workers on a store share.

    A key is ASCII text of less than 10 kB, a record a few kilobytes. Every method raises
    `StoreError` when the store does not do it. It belongs to the event loop that first uses it, and
    connects then.
    """

    @abstractmethod
    async def get(self, key: str) -> bytes | None:
        """The record, None if there is none: as it is after every `swap` that has returned."""

    @abstractmethod
    async def swap(self, key: str, old: bytes | None, new: bytes | None) -> bool:
        """Put `new` in the place of `old` if that is there, unchanged; None stands for no record.
        Of many who try at once one succeeds."""

    @abstractmethod
    async def list(self, prefix: str, after: str, limit: int) -> Sequence[tuple[str, bytes]]:
        """The first records whose key begins so and is above another, with their keys, in their
        order."""

    async def aclose(self) -> None:  # noqa: B027
        """Close what was opened. May be called twice."""

    async def read(self, key: str) -> Fields | None:
        """What is in a record."""
        found = await self.get(key)
        return None if found is None else unpacked(found)

    async def create(self, key: str, fields: Fields) -> bool:
        """Make a record; False when there is one."""
        return await self.swap(key, None, _packed(fields))

    async def change(self, key: str, edit: Callable[[Fields], Fields | None]) -> bool:
        """Change some fields of a record as it is; False where there is none, or nothing that
        `edit` would change."""
        while (old := await self.get(key)) is not None:
            before = unpacked(old)
            fields = edit(before)
            if fields is None:
                return False
            # Each failure is somebody else's success.
            if await self.swap(key, old, _packed(before | fields)):
                return True
        return False

    async def remove(self, key: str, wanted: Callable[[Fields], bool] = lambda _: True) -> bool:
        """Remove a record if it is wanted; whether it went."""
        while (old := await self.get(key)) is not None and wanted(unpacked(old)):
            if await self.swap(key, old, None):
                return True
        return False

    async def all(self, prefix: str) -> AsyncIterator[tuple[str, Fields]]:
        """All whose key begins so, page by page; the keys without that."""
        after = prefix
        while found := await self.list(prefix, after, _PAGE):
            for key, record in found:
                yield key.removeprefix(prefix), unpacked(record)
            after = found[-1][0]


def _packed(fields: Fields) -> bytes:
    return json.dumps(fields, default=lambda raw: {"": base64.b64encode(raw).decode()}).encode()


def unpacked(record: bytes) -> Fields:
    """What is in a record."""

    def plain(found: Fields) -> Any:
        return base64.b64decode(found[""]) if found.keys() == {""} else found

    try:
        return dict(json.loads(record, object_hook=plain))
    except ValueError as error:
        raise UnreadableRowError(
            url="records", what="record", reason=type(error).__name__
        ) from error
