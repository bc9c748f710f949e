"""What has to be done again and again: retention."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from mcp_persist_middleware.errors import StoreError
from mcp_persist_middleware.log.base import EventLog, Purged
from mcp_persist_middleware.log.deletions import Reason
from mcp_persist_middleware.maintenance.notes import DeletionNotes
from mcp_persist_middleware.settings import Settings
from mcp_persist_middleware.supervision import say

logger = logging.getLogger(__name__)

T = TypeVar("T")

# A step removes so many events at first, and then as many as take about so long (seconds): few
# where they are large or the store is slow, many where much is written.
_FIRST, _LEAST, _MOST = 500, 50, 4000
_STEP_SECONDS = 0.03
# A step that the store gave up had too much to do.
_RELENT = 8
# Appends go first: for at least so long (seconds), and for as long as a step took; where a round
# leaves something, half as long in the next one.
_PAUSE, _SHORTEST_REST = 0.01, 0.125
# What else has to be done does not wait for a long history to go.
_ROUND_SECONDS = 5.0


class RetentionLoop:
    """Keeps the log within its bounds, in small steps; a store in trouble puts it off."""

    def __init__(
        self, log: EventLog, settings: Settings, *chores: Callable[[], Awaitable[None]]
    ) -> None:
        self._log = log
        self._settings = settings
        # A session that is in use is touched in the store well before it would expire.
        shortest = min(settings.session_ttl, settings.brief_session_ttl)
        self._interval = min(settings.purge_interval, shortest / 4)
        self._chores = chores
        self._notes = DeletionNotes(log)
        self._events, self._rest = _FIRST, 1.0

    async def run(self) -> None:
        """Run until cancelled: once at the start, then every `purge_interval`; at once where a
        round has left something."""
        while True:
            more = await self._by_itself(self._round) or False
            await self._by_itself(self._notes.write)
            for chore in self._chores:
                await self._by_itself(chore)
            if not more:
                await asyncio.sleep(self._interval)

    async def _by_itself(self, chore: Callable[[], Awaitable[T]]) -> T | None:
        """What fails keeps nothing else from being done: sessions in use expire if nobody says
        that they are."""
        try:
            return await chore()
        except StoreError as error:
            logger.warning("MPM-STORE-16: Retention is put off: %s", error)
        except Exception as error:  # noqa: BLE001
            say("A step of retention", error)
        return None

    async def _round(self) -> bool:
        """Purge, for a bounded time; whether anything that has expired is left."""
        until = time.monotonic() + _ROUND_SECONDS
        more = True
        while more:
            began = time.monotonic()
            more = (await self._purge(began)).more
            await asyncio.sleep(max(_PAUSE, (time.monotonic() - began) * self._rest))
            if time.monotonic() >= until:
                break
        self._rest = max(_SHORTEST_REST, self._rest / 2) if more else 1.0
        return more

    async def _purge(self, began: float) -> Purged:
        """One step."""
        try:
            purged = await self._log.purge(self._log.now(), self._events)
        except StoreError:
            self._events = max(1, self._events // _RELENT)
            raise
        took = time.monotonic() - began
        if took > 2 * _STEP_SECONDS:
            self._events = max(min(_LEAST, self._events), self._events // 2)
        elif took < _STEP_SECONDS / 2 and purged.events >= self._events:
            self._events = min(_MOST, self._events * 2)
        self._notes.add(Reason.AGE, purged)
        return purged
