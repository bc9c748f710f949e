"""The heartbeat of a worker, in a thread of its own: a blocked event loop is not a death."""

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Mapping

from mcp_persist_middleware import telemetry
from mcp_persist_middleware.errors import StoreError
from mcp_persist_middleware.log.base import EventLog
from mcp_persist_middleware.log.membership.failure_detector import FailureDetector
from mcp_persist_middleware.log.membership.lease import Lease
from mcp_persist_middleware.log.parts import WorkerTable
from mcp_persist_middleware.model import Beat, WorkerState

logger = logging.getLogger(__name__)

# Of the lease: how often the counter moves, how often the others are looked at, and how long an
# attempt may take. An attempt that fails and the next one are closer together than half a lease.
_BEAT, _LOOK, _PATIENCE = 1 / 4, 1 / 8, 1 / 4
# A death is known within a lease and a second.
_SHORTEST_LOOK, _LONGEST_LOOK = 0.05, 0.4
_JOIN_SECONDS = 1.0


class Heartbeat:
    """Moves this worker's counter in the store, and watches the others'.

    It belongs to the event loop that makes it, and ends with it at the latest.
    """

    def __init__(self, log: EventLog, worker: str, lease: Lease) -> None:
        self._log = log
        self._worker = worker
        self._lease = lease
        self._on_change: Callable[[], None] = _nothing
        self._on_lost: Callable[[], None] = _nothing
        self._state = WorkerState.LIVE
        self._written: WorkerState | None = None
        self._due = 0.0
        self._table: WorkerTable | None = None
        self._stopping = False
        self._owner = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        self._own: asyncio.AbstractEventLoop | None = None
        self._wake: asyncio.Event | None = None
        self._thread = threading.Thread(
            target=self._live, name="mcp-persist-heartbeat", daemon=True
        )
        self.failure_detector = FailureDetector(lease.seconds)
        """What this worker knows about the others."""

    def start(self, *, on_change: Callable[[], None], on_lost: Callable[[], None]) -> None:
        """Begin to beat. The worker is enrolled already.

        Args:
            on_change: called on the event loop when a worker has come, is dead or its row has gone.
            on_lost: called on the event loop, once, when the lease is lost. The heartbeat has
                stopped.
        """
        self._on_change, self._on_lost = on_change, on_lost
        self._thread.start()

    def drain(self) -> None:
        """Let the others know that this worker shuts down."""
        self._state = WorkerState.DRAINING
        self._hurry()

    async def aclose(self) -> None:
        """Stop beating. A second call does nothing."""
        self._stopping = True
        self._hurry()
        if self._thread.is_alive():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._lease.seconds):
                    await self._ended.wait()
            # It has nothing left to do, and nobody waits for it with the event loop held.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_JOIN_SECONDS):
                    while self._thread.is_alive():  # noqa: ASYNC110 (a thread tells nobody)
                        await asyncio.sleep(_JOIN_SECONDS / 1000)

    def _hurry(self) -> None:
        own, wake = self._own, self._wake
        if own is not None and wake is not None:
            with contextlib.suppress(RuntimeError):  # it has ended meanwhile
                own.call_soon_threadsafe(wake.set)

    def _tell(self, call: Callable[[], None]) -> None:
        try:
            self._owner.call_soon_threadsafe(call)
        except RuntimeError:
            # The event loop went without closing us: who lived there is gone.
            self._stopping = True

    # In the thread.

    def _live(self) -> None:
        try:
            asyncio.run(self._run())
        except Exception:
            logger.exception(
                "MPM-WORKER-02: The heartbeat met an unexpected error; the worker begins anew"
            )
            self._lose()
        self._tell(self._ended.set)

    async def _run(self) -> None:
        self._own, self._wake = asyncio.get_running_loop(), asyncio.Event()
        try:
            while not (self._stopping or self._owner.is_closed()):
                if not self._lease.is_held:
                    self._lose()
                    return
                await self._step()
                await self._pause()
        finally:
            await self._drop_table()

    def _lose(self) -> None:
        self._lease.lose()
        self._stopping = True
        self._tell(self._on_lost)

    async def _pause(self) -> None:
        assert self._wake is not None
        # A worker that turns out to be dead is not left waiting for the next regular look.
        due = max(_SHORTEST_LOOK, self.failure_detector.due())
        wait = min(_LOOK * self._lease.seconds, _LONGEST_LOOK, due)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait):
                await self._wake.wait()
        self._wake.clear()

    async def _step(self) -> None:
        began = time.monotonic()
        try:
            async with asyncio.timeout(_PATIENCE * self._lease.seconds):
                table = self._table = self._table or self._log.worker_table()
                if began >= self._due or self._state is not self._written:
                    await self._beat(table, began)
                self._note(began, await table.look())
        except (StoreError, TimeoutError) as error:
            telemetry.store_failures.add(1)
            logger.debug("A heartbeat failed: %s", error)
            self._due = 0.0
            self.failure_detector.restart()
            self._lease.fail(began)
            await self._drop_table()

    async def _beat(self, table: WorkerTable, began: float) -> None:
        state = self._state
        if not await table.beat(self._worker, state):
            if not self._lease.is_young or self._worker in await table.look():
                # Declared dead, or away so long that it may have been, and removed.
                self._lose()
                return
            # The store lost the row: it was made anew.
            await table.enrol(self._worker)
        self._written = state
        self._lease.keep(began)
        self._due = began + _BEAT * self._lease.seconds

    def _note(self, began: float, beats: Mapping[str, Beat]) -> None:
        changed = self.failure_detector.beats.keys() ^ beats.keys()
        self.failure_detector.look(began, beats)
        others = beats.keys() - {self._worker}
        if changed or any(self.failure_detector.is_dead(w) or self._log.is_gone(w) for w in others):
            self._tell(self._on_change)

    async def _drop_table(self) -> None:
        table, self._table = self._table, None
        if table is not None:
            await table.aclose()


def _nothing() -> None:
    """Nobody has asked to be told."""
