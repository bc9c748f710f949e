"""The end of what dead workers left behind."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

from mcp_persist_middleware.errors import StoreError, UnreadableRowError
from mcp_persist_middleware.log.base import EventLog
from mcp_persist_middleware.log.membership.peers import Peers, PeerStatus
from mcp_persist_middleware.log.takeover import Takeover
from mcp_persist_middleware.model import StreamRecord
from mcp_persist_middleware.settings import Settings
from mcp_persist_middleware.supervision import say

logger = logging.getLogger(__name__)

_PAGE = 100


class OrphanReaper:
    """Ends the open streams of workers that are gone, and removes their rows.

    It sleeps until the heartbeat has seen a death, and looks by itself once in a lease.

    Args:
        send_back: ends the connections that read a stream in an epoch here, in order.
        on_gone: told of each that is gone, before what it has left is looked for.
    """

    def __init__(
        self,
        log: EventLog,
        peers: Peers,
        settings: Settings,
        worker: str,
        takeover: Takeover,
        send_back: Callable[[bytes, int], None],
        on_gone: Callable[[str, PeerStatus], Awaitable[None]] | None = None,
    ) -> None:
        self._log = log
        self._peers = peers
        self._settings = settings
        self._worker = worker
        self._takeover = takeover
        self._send_back = send_back
        self._on_gone = on_gone
        self._woken = asyncio.Event()
        self._left: set[bytes] = set()
        """Those that cannot be ended: each of them is said once."""

    def wake(self) -> None:
        """Somebody has died or left."""
        self._woken.set()

    async def run(self) -> None:
        """Run until cancelled: once at the start, then whenever it is woken."""
        while True:
            self._woken.clear()
            try:
                await self._sweep()
            except StoreError as error:
                logger.warning(
                    "MPM-STREAM-04: Streams of workers that are gone stay open for now: %s", error
                )
            except Exception as error:  # noqa: BLE001
                say("A sweep", error)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._settings.lease_seconds):
                    await self._woken.wait()

    async def _sweep(self) -> None:
        # The names first: a worker enrols before it writes, so who has no row later is gone.
        names = {*await self._log.active_writers(), *await self._log.workers()} - {self._worker}
        for worker in names:
            status = await self._peers.verify(worker)
            if status.gone:
                await self._reap(worker, status)

    async def _reap(self, worker: str, status: PeerStatus) -> None:
        if self._on_gone is not None:
            try:
                await self._on_gone(worker, status)
            except UnreadableRowError as error:
                # What it has begun is ended all the same.
                logger.warning(
                    "MPM-STREAM-05: What a worker that is gone has left cannot be read: %s", error
                )
        ended = waiting = 0
        after = b""
        while left := await self._log.open_streams_of(worker, _PAGE, after):
            after = left[-1].id
            for record in left:
                if self._waits_for_its_client(record, status):
                    waiting += 1
                    self._send_back(record.id, record.epoch)
                elif await self._end(record, status):
                    ended += 1
                else:
                    waiting += 1
        if not waiting:
            await self._log.deregister(worker)
            logger.info("Worker %s is gone; %d of its streams were ended", worker, ended)

    async def _end(self, record: StreamRecord, status: PeerStatus) -> bool:
        """Whether a stream is ended, or cannot be; what is wrong with one keeps none of the
        others open."""
        if record.id in self._left:
            return True
        try:
            await self._takeover.end(record, status)
        except UnreadableRowError as error:
            logger.warning(
                "MPM-STREAM-05: A stream of a worker that is gone cannot be ended: %s", error
            )
            self._left.add(record.id)
        except StoreError:
            raise
        except Exception:
            logger.exception(
                "MPM-STREAM-06: A stream of a worker that is gone is left open for now"
            )
            return False
        return True

    def _waits_for_its_client(self, record: StreamRecord, status: PeerStatus) -> bool:
        """Whether a request may still be run again when its client comes back for it. One that
        reads on this worker is asked to."""
        left_at = max(status.seen_at or 0.0, record.created_at)
        return record.request is not None and (
            self._log.now() < left_at + self._settings.rerun_seconds
        )
