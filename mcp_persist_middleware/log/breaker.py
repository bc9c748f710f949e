"""Whether the store is there, as the writer of a worker finds out."""

import asyncio
import logging
from collections.abc import Callable

from mcp_persist_middleware.errors import StoreError
from mcp_persist_middleware.log.base import EventLog
from mcp_persist_middleware.supervision import Supervisor, end

logger = logging.getLogger(__name__)

_PROBE_SECONDS = 0.5


class StoreBreaker:
    """The store's outages, one after the other. Of each one line tells the beginning and one the
    end; meanwhile the store is asked whether it is back.

    Args:
        on_back: called when it answers.
    """

    def __init__(self, log: EventLog, on_back: Callable[[], None], tasks: Supervisor) -> None:
        self._log = log
        self._on_back = on_back
        self._tasks = tasks
        self._probing: asyncio.Task[None] | None = None
        self._is_told = True
        self.is_open = False
        self.number = 0
        """How many there were."""
        self.is_half_open = True
        """Whether the store has committed something since. One that answers and takes nothing, as
        on a full disk, has not."""

    def begin(self) -> None:
        """The store has failed for too long."""
        if self.is_open:
            return
        self.is_open = True
        self.number += 1
        self.is_half_open = self._is_told = False
        self._probing = self._tasks.keep(self._probe, "mcp-persist-probe")

    def tell(self, error: StoreError) -> None:
        """Say why one begins, or nothing where the last one is not over."""
        if self._is_told:
            logger.error("MPM-LOG-01: %s Streams go on without it until it is back.", error)

    def tell_end(self) -> None:
        """What was there to commit is committed."""
        if not (self.is_open or self._is_told):
            self._is_told = True
            logger.warning("MPM-LOG-02: The store %s is back.", self._log.name)

    async def aclose(self) -> None:
        """Ask no more."""
        probing, self._probing = self._probing, None
        await end(probing)

    async def _probe(self) -> None:
        while self.is_open:
            await asyncio.sleep(_PROBE_SECONDS)
            try:
                await self._log.ping()
            except StoreError:
                continue
            self.is_open = False
        self._on_back()
