"""What many readers want of the store at the same time is read once, and is in memory once while
any of them still sends it: a reader costs a place in a page, whatever is on that page."""

import asyncio
from weakref import WeakValueDictionary

from mcp_persist_middleware.errors import StoreError
from mcp_persist_middleware.log.base import EventLog
from mcp_persist_middleware.model import Event

_PAGE_EVENTS = 256
# An event that is larger comes alone.
_PAGE_BYTES = 256 * 1024

_PageKey = tuple[bytes, int, int]


class Events(list[Event]):
    """The events of one page. Nobody changes it, and it lives as long as somebody holds it."""


class Reads:
    """The readers' way to the store, shared by all of one event loop."""

    def __init__(self, log: EventLog) -> None:
        self.log = log
        self._held: WeakValueDictionary[_PageKey, Events] = WeakValueDictionary()
        self._coming: dict[_PageKey, asyncio.Future[Events | StoreError | None]] = {}

    async def page(self, stream: bytes, epoch: int, after: int) -> Events:
        """The committed events after a number, in order, as many as make a page; none if there
        is none now.

        Args:
            epoch: the epoch in which the reader found the stream. What was read in an older one
                may be what a store has forgotten since, and whose numbers it has given again.

        Raises:
            StoreError: the store does not answer.
        """
        key = stream, epoch, after
        is_news = False
        while (held := self._held.get(key)) is None:
            coming = self._coming.get(key)
            if coming is None:
                return await self._read(key)
            # Not awaited itself: a reader that leaves would cancel it for the others. It ends
            # with the store's answer, or with the reader that asks, whichever is first.
            await asyncio.wait((coming,))
            found = coming.result()
            if isinstance(found, StoreError):
                raise found
            # That there was nothing when another one asked says nothing of now.
            if found or (found is not None and is_news):
                return found
            is_news = True
        return held

    async def _read(self, key: _PageKey) -> Events:
        stream, _, after = key
        coming = self._coming[key] = asyncio.get_running_loop().create_future()
        told: Events | StoreError | None = None
        try:
            told = Events(await self.log.read(stream, after, _PAGE_EVENTS, _PAGE_BYTES))
            if told:
                self._held[key] = told
            return told
        except StoreError as error:
            told = error
            raise
        finally:
            del self._coming[key]
            coming.set_result(told)
