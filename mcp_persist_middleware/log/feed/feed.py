"""Follows streams and gives their events, each once, in the order of each stream.

The truth is the log: a wake-up says that it is worth a look, and a look that no wake-up asked for
comes all the same. Nothing is read that was not asked for but the page that is being given: whoever
is slow costs the memory of one page.
"""

import asyncio
import contextlib
import hashlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Self, TypeVar

from mcp_persist_middleware import rarely
from mcp_persist_middleware.errors import ClosedError, StoreError, UnsupportedError
from mcp_persist_middleware.log.base import EventLog
from mcp_persist_middleware.log.feed.items import FeedItem, Scope, Terms
from mcp_persist_middleware.log.feed.looking import Looker
from mcp_persist_middleware.log.feed.losses import Losses
from mcp_persist_middleware.log.feed.positions import Positions, Standing
from mcp_persist_middleware.log.feed.telling import Telling
from mcp_persist_middleware.supervision import said
from mcp_persist_middleware.wakeups.base import ANYTHING, Subscription

T = TypeVar("T")

logger = rarely.logger(__name__)

# All that began since the floor is looked at so often (seconds), and where that takes long, so many
# times more seldom.
_WHOLE, _SELDOM = 1.0, 20.0
# After each look this share of the time that it took is left to others, between these (seconds).
_SHARE, _LEAST, _MOST = 1.0, 0.005, 0.5
# While nothing happens: so often (seconds) it is seen whether the log is still open.
_CHECK = 0.5
_FIRST_RETRY, _LAST_RETRY = 0.1, 5.0
# So long (seconds) after the store was away answers may be logged of streams that began meanwhile.
_SETTLE = 60.0


class Feed:
    """The events of some streams as they are committed: an asynchronous iterator of `FeedEvent` and
    `FeedGap`. Close it after use, or use it as an asynchronous context manager.

    It ends when its one stream has ended, or with the persistence object that made it.

    Args:
        source: the log as it is open now.
        after: a cursor, "now" or "start".
    """

    def __init__(
        self, source: Callable[[], Awaitable[EventLog]], scope: Scope, after: str, terms: Terms
    ) -> None:
        self._source = source
        self._scope = scope
        self._after = after
        self._terms = terms
        self._positions: Positions | None = None
        self._log: EventLog | None = None
        self._subscription: Subscription | None = None
        self._whole_at = self._settled_at = self._took = 0.0
        self._is_whole = False
        self._items = self._run()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> FeedItem:
        return await anext(self._items)

    async def __aenter__(self) -> Self:
        await self.begin()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        frames: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Follow no more. May be called twice."""
        await self._items.aclose()

    @property
    def cursor(self) -> str:
        """Where it is: behind the last item that was given. Before it has begun, `after`."""
        return self._after if self._positions is None else self._positions.moment().cursor()

    async def begin(self) -> None:
        """Be at `after`; the first item that is asked for does it as well. What is committed from
        then on is given.

        Raises:
            FeedError: `after` is no cursor of this store, or there is no such stream.
            StoreError: the store does not answer.
        """
        if self._positions is not None:
            return
        log, stream = await self._source(), self._scope.stream
        key = hashlib.blake2b(self._scope.said().encode(), key=log.secret[:64]).digest()
        is_new = self._after in ("now", "start")
        positions = Positions(key) if is_new else Positions.of(self._after, key)
        looker = Looker(self._scope, positions, self._terms.horizon)
        if is_new:
            await looker.check(log)
        if self._after == "now":
            await looker.begin(log)
        if stream is not None and not positions.knows(stream):
            positions.put(stream, (0, Standing.OPEN))
        self._positions, self._looker = positions, looker
        self._telling = Telling(positions, self._terms, self._timed)
        self._losses = Losses(positions, self._terms, log.now() if is_new else 0.0)

    async def _run(self) -> AsyncGenerator[FeedItem, None]:
        await self.begin()
        pause = _FIRST_RETRY
        try:
            while not self._is_over():
                try:
                    log, is_idle = await self._open(), True
                    async for item in self._look(log):
                        is_idle = False
                        yield item
                    pause = _FIRST_RETRY
                    await self._rest(is_idle=is_idle)
                except UnsupportedError:
                    raise
                except StoreError as error:
                    logger.warning("MPM-FEED-02: A subscription waits: %s", said(error))
                    self._settled_at = time.monotonic() + _SETTLE
                    self._unsubscribe()
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, _LAST_RETRY)
        except ClosedError:
            return
        finally:
            self._unsubscribe()

    def _is_over(self) -> bool:
        """Whether nothing will ever come: its one stream has ended, or is gone."""
        stream, positions = self._scope.stream, self._positions
        if stream is None or positions is None:
            return False
        return positions.places.get(stream, (0, Standing.DONE))[1] is Standing.DONE

    async def _open(self) -> EventLog:
        """The log as it is open now: a worker that has lost its lease goes on with another one."""
        log = await self._source()
        if log is not self._log or self._subscription is None:
            self._unsubscribe()
            self._log = log
            self._subscription = log.wakeups.subscribe(self._scope.stream or ANYTHING)
        return log

    def _unsubscribe(self) -> None:
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            subscription.close()

    async def _rest(self, *, is_idle: bool) -> None:
        if is_idle and self._subscription is not None and not self._is_over():
            await self._woken(self._subscription)
        await asyncio.sleep(min(max(_LEAST, _SHARE * self._took), _MOST))

    async def _woken(self, subscription: Subscription) -> None:
        """Return when a look is worth it, or when the log is open no more."""
        until = time.monotonic() + subscription.patience
        if not self._is_whole:
            # What woke it may have begun long before it was committed.
            until = min(until, self._whole_at)
        while (left := until - time.monotonic()) > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(left, _CHECK)):
                    return await subscription.wait()
            if await self._source() is not self._log:
                return None
        return None

    async def _look(self, log: EventLog) -> AsyncIterator[FeedItem]:
        """All that has come since the last look."""
        began, self._took = time.monotonic(), 0.0
        whole = self._is_whole = began >= self._whole_at
        if whole and (gap := await self._losses.look(log)) is not None:
            yield gap
        raises = whole and began >= self._settled_at
        for batches in (
            self._looker.known(log, also_resting=whole),
            self._looker.begun(log, whole=whole, raises=raises),
        ):
            while (batch := await self._timed(anext(batches, None))) is not None:
                async for item in self._telling.items(log, batch):
                    yield item
        if whole:
            self._whole_at = time.monotonic() + max(_WHOLE, _SELDOM * self._took)

    async def _timed(self, work: Awaitable[T]) -> T:
        """Wait for the store, and count how long that takes."""
        began = time.monotonic()
        try:
            return await work
        finally:
            self._took += time.monotonic() - began
