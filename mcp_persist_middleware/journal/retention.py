"""Keeps the journal within its bounds: by age, and by the number of its rows."""

import asyncio
import time

from mcp_persist_middleware.log.base import EventLog
from mcp_persist_middleware.log.deletions import Deletion, Reason
from mcp_persist_middleware.settings import Settings

# Of a round (seconds), and of a step (rows); others have the store for as long as a step took.
_ROUND, _STEP, _PAUSE = 5.0, 1000, 0.01


class JournalRetention:
    """Also where none is written any more: what is there goes when its time is over."""

    def __init__(self, log: EventLog, settings: Settings) -> None:
        self._log = log
        self._ttl = settings.journal_ttl
        self._most = settings.max_journal_rows
        self._gone = 0
        """What went and is not noted yet."""

    async def purge(self) -> None:
        """One round, in small steps.

        Raises:
            StoreError: the store does not do it.
        """
        journal, full = self._log.journal, True
        if journal is None:
            return
        until = time.monotonic() + _ROUND
        while full and time.monotonic() < until:
            began = time.monotonic()
            step = await journal.purge(journal.now() - self._ttl, self._most, _STEP)
            self._gone, full = self._gone + step, step >= _STEP
            await asyncio.sleep(max(_PAUSE, time.monotonic() - began) if full else 0)
        if self._gone:
            now = self._log.now()
            await self._log.note_deletions([Deletion(now, Reason.AGE, "", "journal", self._gone)])
            self._gone = 0
