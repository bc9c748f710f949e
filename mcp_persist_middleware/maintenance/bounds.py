"""Keeps what has ended within the bounds that do not go by age: the oldest streams go first, those
that are open never."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable
from typing import TypeVar

from mcp_persist_middleware.errors import StoreError, UnsupportedError
from mcp_persist_middleware.log.base import EventLog
from mcp_persist_middleware.log.deletions import Reason
from mcp_persist_middleware.log.whose import Whose
from mcp_persist_middleware.maintenance import removing
from mcp_persist_middleware.maintenance.notes import DeletionNotes
from mcp_persist_middleware.model import StreamState
from mcp_persist_middleware.settings import Settings
from mcp_persist_middleware.settings.namespaces import in_namespace

logger = logging.getLogger(__name__)

T = TypeVar("T")

# What one step lists.
_STREAMS = 50
# To measure a store may take long: no more than this part of the time.
_SHARE = 50


class Bounds:
    """The limits `max_kept_streams`, `max_kept_bytes` and `max_store_bytes` of one store. Several
    workers that keep them at once find the same streams."""

    def __init__(self, log: EventLog, settings: Settings) -> None:
        self._log = log
        self._settings = settings
        self._notes = DeletionNotes(log)
        self._measured = 0.0

    @property
    def is_idle(self) -> bool:
        """Whether there is no bound."""
        given = self._settings
        return {given.max_kept_streams, given.max_kept_bytes, given.max_store_bytes} == {None}

    async def run(self) -> None:
        """Run until cancelled, or until it is known that the store cannot be bounded."""
        while not self.is_idle:
            self._measured = 0.0
            try:
                await self.keep()
            except UnsupportedError as error:
                logger.error("MPM-STORE-18: What is kept has no bound but its age: %s", error)
                return
            except StoreError as error:
                logger.warning("MPM-STORE-19: The bounds of the store are kept later: %s", error)
            await asyncio.sleep(max(self._settings.purge_interval, self._measured * _SHARE))

    async def keep(self) -> None:
        """One round.

        Raises:
            UnsupportedError: the store cannot be bounded.
            StoreError: it does not do it now.
        """
        settings = self._settings
        try:
            if settings.max_kept_streams is not None or settings.max_kept_bytes is not None:
                for namespace in await self._timed(self._log.namespaces()):
                    await self._keep_namespace(namespace)
            if settings.max_store_bytes is not None:
                excess = await self._timed(self._log.size()) - settings.max_store_bytes
                await self._free(excess)
        finally:
            await self._notes.write()

    async def _timed(self, measure: Awaitable[T]) -> T:
        began = time.monotonic()
        try:
            return await measure
        finally:
            self._measured += time.monotonic() - began

    async def _keep_namespace(self, namespace: str) -> None:
        settings = self._settings
        for setting, reason in (
            (settings.max_kept_streams, Reason.COUNT),
            (settings.max_kept_bytes, Reason.BYTES),
        ):
            if (most := in_namespace(setting, namespace)) is None:
                continue
            beyond = self._log.beyond(namespace, most, in_bytes=reason is Reason.BYTES)
            if not (last := await self._timed(beyond)):
                continue
            async for page in self._ended(Whose(namespace=namespace)):
                await self._remove([each for each in page if each <= last], reason)
                if page[-1] > last:
                    break

    async def _free(self, excess: int) -> None:
        if excess <= 0:
            return
        async for page in self._ended(Whose()):
            meant = []
            for stream in page:
                if excess > 0:
                    excess -= (await self._log.written(stream)).size
                    meant.append(stream)
            await self._remove(meant, Reason.STORE)
            if excess <= 0:
                break

    async def _ended(self, whose: Whose) -> AsyncIterator[list[bytes]]:
        """The streams that have ended, the oldest first."""
        async for page in removing.pages(self._log, whose, _STREAMS):
            if ended := [each.id for each in page if each.state is not StreamState.OPEN]:
                yield ended

    async def _remove(self, streams: list[bytes], reason: Reason) -> None:
        async for step in removing.steps(self._log, streams, ended=True):
            self._notes.add(reason, step)
