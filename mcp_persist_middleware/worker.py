"""One worker's life on a store: what it opens, what runs around it, and how it leaves."""

import asyncio
import contextlib
import logging
import secrets
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Self

from mcp_persist_middleware.exchange import shield
from mcp_persist_middleware.exchange.context import Context
from mcp_persist_middleware.exchange.drain import Drain
from mcp_persist_middleware.exchange.turns import Listeners
from mcp_persist_middleware.keeper import Keeper
from mcp_persist_middleware.log.attendance import Attendance
from mcp_persist_middleware.log.base import EventLog
from mcp_persist_middleware.log.connect import make_log
from mcp_persist_middleware.log.heart import Heart
from mcp_persist_middleware.log.lease import Lease
from mcp_persist_middleware.log.live import Limits
from mcp_persist_middleware.log.liveness import Liveness
from mcp_persist_middleware.log.writer import Writer
from mcp_persist_middleware.sessions.courier import Courier
from mcp_persist_middleware.sessions.desk import Desk
from mcp_persist_middleware.sessions.registry import Registry
from mcp_persist_middleware.settings import Settings
from mcp_persist_middleware.shutdown import ShutdownWatch
from mcp_persist_middleware.sweeper import Sweeper

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Parts:
    """What is open on one event loop."""

    exchanges: Context
    sessions: Registry
    courier: Courier


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker that is enrolled. Whoever loses its lease leaves, and begins anew as another."""

    parts: Parts
    _heart: Heart
    _watch: ShutdownWatch
    _chores: list[asyncio.Task[None]]

    @classmethod
    async def open(cls, settings: Settings, on_lost: Callable[[], None]) -> Self:
        """Open the store, under a name that nobody had before.

        Args:
            on_lost: called when the lease is lost.

        Raises:
            StoreError: the store cannot be opened.
        """
        log, name = make_log(settings), secrets.token_hex(8)
        lease = Lease(settings.lease_seconds)
        async with _or_closed(log):
            await log.open(name)
        writer = Writer(log, settings.store_timeout, lambda: lease.is_held)
        heart = Heart(log, name, lease)
        liveness = Liveness(log, heart.observer)
        drain = Drain(settings.drain_seconds, heart.drain)
        sweeper = Sweeper(log, liveness, settings, name, drain.send_back)
        registry = Registry(log.sessions, settings, name, liveness, lambda: writer.is_down)
        desk = Desk(log.inbox, log.wakeups, liveness, lease, registry, settings, name)
        async with _or_closed(log):
            await desk.open()
        writer.start()

        def on_change() -> None:
            sweeper.wake()
            desk.wake()

        heart.start(on_change=on_change, on_lost=on_lost)
        keeper = Keeper(log, settings, registry.keep, desk.purge)
        chores = [
            asyncio.create_task(keeper.run(), name="mcp-persist-keeper"),
            asyncio.create_task(sweeper.run(), name="mcp-persist-sweeper"),
            asyncio.create_task(desk.run(), name="mcp-persist-desk"),
        ]
        logger.info("Streams are kept in %s", log.name)
        shield.install()
        watch = ShutdownWatch(drain.begin)
        watch.start()
        attendance, limits = Attendance(log), _limits(settings)
        listeners = Listeners(log.sessions, liveness, name, lambda: writer.is_down)
        context = Context(
            settings, log, writer, name, limits, attendance, lease, liveness, drain, listeners
        )
        courier = Courier(log.inbox, log.wakeups, liveness, settings.lease_seconds)
        return cls(Parts(context, registry, courier), heart, watch, chores)

    async def leave(self) -> None:
        """Stop what runs around the store, and close it."""
        await self._watch.aclose()
        for task in self._chores:
            await stop(task)
        await self._heart.aclose()
        await self.parts.exchanges.listeners.aclose()
        await self.parts.exchanges.attendance.aclose()
        await self.parts.exchanges.log.aclose()


@contextlib.asynccontextmanager
async def _or_closed(log: EventLog) -> AsyncIterator[None]:
    """What fails in here, or is cancelled, leaves nothing open."""
    try:
        yield
    except BaseException:
        # What comes of this is not what went wrong.
        with contextlib.suppress(Exception):
            await log.aclose()
        raise


async def stop(task: asyncio.Task[None] | None) -> None:
    """Cancel a task and wait for its end."""
    if task is not None:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def _limits(settings: Settings) -> Limits:
    return Limits(
        settings.run_ahead_events,
        settings.run_ahead_bytes,
        settings.max_stream_events,
        settings.max_stream_bytes,
    )
