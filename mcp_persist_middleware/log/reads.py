"""What many readers want of the store at the same time is read once, and is in memory once while
any of them still sends it: a reader costs a place in a page, whatever is on that page."""

import asyncio
from collections.abc import Sequence
from weakref import WeakValueDictionary

from mcp_persist_middleware.errors import StoreError
from mcp_persist_middleware.grouped import Grouped
from mcp_persist_middleware.log.base import EventLog, LastNumber
from mcp_persist_middleware.model import Event, HighWater
from mcp_persist_middleware.supervision import Tasks

# Every store has answered by then, or said that it does not (seconds).
_LONGEST = 60.0
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
        self._looks = Grouped(self._look, Tasks("mcp-persist-looks"), _LONGEST, self._late)

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

    async def is_current(self, stream: bytes, has: HighWater) -> bool:
        """Whether a stream is open, and who has all up to there has all of it. False says nothing.

        Raises:
            StoreError: the store does not answer.
        """
        return await self._looks.run((stream, has))

    async def _look(self, readers: Sequence[tuple[bytes, HighWater]]) -> list[bool]:
        now = await self.log.last_numbers({stream: has.sequence for stream, has in readers})
        found = [now.get(stream) for stream, _ in readers]
        return [
            each is not None and each.is_open and _has_all(has, each)
            for each, (_, has) in zip(found, readers, strict=True)
        ]

    def _late(self) -> StoreError:
        return StoreError(url=self.log.name, reason=f"no answer in {_LONGEST:g} s")

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


def _has_all(has: HighWater, now: LastNumber) -> bool:
    # Who was given nothing may be in any epoch.
    return has.sequence == now.sequence and has.epoch in (0, now.epoch)
