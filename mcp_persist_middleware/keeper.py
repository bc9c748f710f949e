"""What has to be done again and again: retention, and the end of what dead workers left."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from mcp_persist_middleware import telemetry
from mcp_persist_middleware.errors import StoreError
from mcp_persist_middleware.log import orphans
from mcp_persist_middleware.log.base import EventLog
from mcp_persist_middleware.settings import Settings

logger = logging.getLogger(__name__)

_EVENTS = 500
_ORPHANS = 100
# Appends go first.
_PAUSE = 0.01


class Keeper:
    """Keeps the log within its bounds, in small steps; a store in trouble puts it off."""

    def __init__(
        self, log: EventLog, settings: Settings, *chores: Callable[[], Awaitable[None]]
    ) -> None:
        self._log = log
        self._settings = settings
        # A session that is in use is touched in the store well before it would expire.
        self._interval = min(settings.purge_interval, settings.session_ttl / 4)
        self._chores = (self._end_orphans, self._purge, *chores)

    async def run(self) -> None:
        """Run until cancelled: once at the start, then every `purge_interval`."""
        while True:
            try:
                for chore in self._chores:
                    await chore()
            except StoreError as error:
                logger.warning("Retention is put off: %s", error)
            except Exception:
                logger.exception("Retention met an unexpected error and goes on")
            await asyncio.sleep(self._interval)

    async def _end_orphans(self) -> None:
        ended = _ORPHANS
        while ended == _ORPHANS:
            ended = 0
            for record in await self._log.orphans(_ORPHANS):
                now = await orphans.end(self._log, record, self._settings.ttl)
                ended += now is None or now.epoch > record.epoch
                await asyncio.sleep(_PAUSE)

    async def _purge(self) -> None:
        more = True
        while more:
            purged = await self._log.purge(time.time(), _EVENTS)
            telemetry.purged_streams.add(purged.streams)
            telemetry.purged_events.add(purged.events)
            more = purged.more
            await asyncio.sleep(_PAUSE)
