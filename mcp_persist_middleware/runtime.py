"""The composition root: opens and closes the store, the writer and retention of one event loop,
shared by every mount with the same settings on it."""

import asyncio
import contextlib
import dataclasses
import logging
import secrets
import weakref
from collections.abc import Mapping
from typing import Any, Self

from mcp_persist_middleware import telemetry
from mcp_persist_middleware.errors import ClosedError, ConfigurationError, StoreError
from mcp_persist_middleware.exchange import shield
from mcp_persist_middleware.exchange.context import Context
from mcp_persist_middleware.exchange.drain import Drain
from mcp_persist_middleware.keeper import Keeper
from mcp_persist_middleware.log.attendance import Attendance
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

_STOP_SECONDS = 5.0
# After a loss of the lease: what waited in the sockets meanwhile has been read, and refused, when
# the event loop has gone round so often and so much time (seconds) is over.
_SETTLE_ROUNDS, _SETTLE_SECONDS = 10, 0.2
_REOPEN_SECONDS = 0.5


class Persistence:
    """An open store and what runs around it: the handle behind `PersistMiddleware`.

    Use it as an async context manager, or let the middleware open it at start-up (or, where no
    lifespan is seen, with the first request). On each event loop it is opened once, and the last
    user closes it.

    Args:
        settings: as `PersistMiddleware` takes them; checked when the object is opened.
    """

    def __init__(self, url: str | None = None, **settings: Any) -> None:
        self._given: Mapping[str, Any] = settings if url is None else {"url": url, **settings}
        self._settings: Settings | None = None
        self._error: ConfigurationError | None = None

    def narrowed(self, url: str | None, settings: Mapping[str, Any]) -> "Persistence":
        """This object, or, when settings are given beside it, one whose start says that only
        one of the two can be."""
        if url is None and not settings:
            return self
        names = ", ".join(sorted([*settings, *(["url"] if url is not None else [])]))
        conflict = Persistence()
        conflict._error = ConfigurationError(
            reason=f"persistence= and {names} are both given; set {names} on the Persistence"
        )
        return conflict

    @property
    def settings(self) -> Settings:
        """The checked settings.

        Raises:
            ConfigurationError: a setting is unknown or wrong.
        """
        if self._error is not None:
            raise self._error
        if self._settings is None:
            self._settings = Settings.load(self._given)
        return self._settings

    async def start(self) -> None:
        """Open the store on the running event loop; a second call does nothing.

        Raises:
            ConfigurationError: a setting is unknown or wrong.
            StoreError: the store cannot be opened.
        """
        await self._loop_runtime().start(self)

    async def drain(self) -> None:
        """Let running calls end, for at most `drain_seconds` from the first word of a shutdown;
        a call that has not ended then is answered with an error, for its client to find.
        """
        for runtime in list(_runtimes().values()):
            if self in runtime.users:
                await runtime.drain(self)

    async def aclose(self) -> None:
        """Drain, commit what waits and close what was opened here. May be called twice."""
        for runtime in list(_runtimes().values()):
            if self in runtime.users:
                await runtime.release(self)

    async def ping(self) -> None:
        """Return when the store can take a write.

        Raises:
            StoreError: it cannot.
        """
        await (await self.context()).log.ping()

    async def context(self) -> Context:
        """What the exchanges on the running event loop share; opens the store when it is not."""
        return (await self.parts()).exchanges

    async def parts(self) -> "Parts":
        """What requests on the running event loop share; opens the store when it is not open."""
        runtime = self._loop_runtime()
        if runtime.parts is None or self not in runtime.users:
            await runtime.start(self)
        if runtime.parts is None:
            raise ClosedError
        return runtime.parts

    def _loop_runtime(self) -> "_Runtime":
        runtimes = _runtimes()
        if self.settings not in runtimes:
            runtimes[self.settings] = _Runtime(self.settings)
        return runtimes[self.settings]

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


@dataclasses.dataclass(frozen=True, slots=True)
class Parts:
    """What is open on one event loop."""

    exchanges: Context
    sessions: Registry
    courier: Courier


class _Runtime:
    """One store on one event loop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = asyncio.Lock()
        self._chores: list[asyncio.Task[None]] = []
        self._heart: Heart | None = None
        self._renewal: asyncio.Task[None] | None = None
        self._watch: ShutdownWatch | None = None
        self.users: set[Persistence] = set()
        self.parts: Parts | None = None

    async def start(self, user: Persistence) -> None:
        async with self._lock:
            if self.parts is None:
                self.parts = await self._open()
            self.users.add(user)

    async def _open(self) -> Parts:
        settings = self._settings
        log, worker = make_log(settings), secrets.token_hex(8)
        lease = Lease(settings.lease_seconds)
        try:
            await log.open(worker)
        except asyncio.CancelledError:
            await log.aclose()
            raise
        writer = Writer(log, settings.store_timeout, lambda: lease.is_held)
        writer.start()
        heart = self._heart = Heart(log, worker, lease)
        liveness = Liveness(log, heart.observer)
        sweeper = Sweeper(log, liveness, settings, worker)
        registry = Registry(log.sessions, settings, worker, liveness, lambda: writer.is_down)
        desk = Desk(log.inbox, log.wakeups, liveness, lease, registry, settings, worker)
        await desk.open()

        def on_change() -> None:
            sweeper.wake()
            desk.wake()

        heart.start(on_change=on_change, on_lost=self._renew_soon)
        keeper = Keeper(log, settings, registry.keep, desk.purge)
        self._chores = [
            asyncio.create_task(keeper.run(), name="mcp-persist-keeper"),
            asyncio.create_task(sweeper.run(), name="mcp-persist-sweeper"),
            asyncio.create_task(desk.run(), name="mcp-persist-desk"),
        ]
        logger.info("Streams are kept in %s", log.name)
        limits = Limits(
            settings.run_ahead_events,
            settings.run_ahead_bytes,
            settings.max_stream_events,
            settings.max_stream_bytes,
        )
        drain = Drain(settings.drain_seconds, heart.drain)
        shield.install()
        self._watch = ShutdownWatch(drain.begin)
        self._watch.start()
        context = Context(
            settings, log, writer, worker, limits, Attendance(log), lease, liveness, drain
        )
        courier = Courier(log.inbox, log.wakeups, liveness, settings.lease_seconds)
        return Parts(context, registry, courier)

    async def drain(self, user: Persistence) -> None:
        """The last user ends all; another one, unless the whole process stops, ends nothing."""
        if self.parts is not None:
            context = self.parts.exchanges
            if self.users == {user} or context.draining:
                await context.drain.finished()

    async def release(self, user: Persistence) -> None:
        if self.users <= {user}:
            await _stop(self._renewal)
        await self.drain(user)
        async with self._lock:
            self.users.discard(user)
            if self.users or self.parts is None:
                return
            parts, self.parts = self.parts, None
            context = parts.exchanges
            await context.cancel_exchanges(_STOP_SECONDS)
            with contextlib.suppress(StoreError):
                await parts.sessions.keep()
            await context.writer.aclose(_STOP_SECONDS)
            await self._leave_store(context)
            runtimes = _runtimes()
            if runtimes.get(self._settings) is self:
                del runtimes[self._settings]

    async def _leave_store(self, context: Context) -> None:
        if self._watch is not None:
            await self._watch.aclose()
        for task in self._chores:
            await _stop(task)
        if self._heart is not None:
            await self._heart.aclose()
        await context.attendance.aclose()
        await context.log.aclose()

    def _renew_soon(self) -> None:
        if self.parts is not None and (self._renewal is None or self._renewal.done()):
            self._renewal = asyncio.create_task(self._renew(), name="mcp-persist-renewal")

    async def _renew(self) -> None:
        """Go on as a fresh worker after this one stood still for longer than its lease."""
        async with self._lock:
            before = self.parts
            if before is None or before.exchanges.holds_lease:
                return
            lost = before.exchanges
            logger.warning(
                "This worker stood still for longer than its lease (%s s) and may have been "
                "taken for dead; what it ran is given up, and it goes on as a new one",
                self._settings.lease_seconds,
            )
            telemetry.leases_lost.add(1)
            await lost.give_up(_STOP_SECONDS)
            for _ in range(_SETTLE_ROUNDS):
                await asyncio.sleep(0)
            await asyncio.sleep(_SETTLE_SECONDS)
            # What was deleted stays deleted, whoever holds the session now.
            with contextlib.suppress(StoreError):
                await before.sessions.keep()
            await self._leave_store(lost)
            while self.parts is before:
                try:
                    fresh = await self._open()
                except StoreError as error:
                    logger.warning("There is no new lease yet: %s", error)
                    await asyncio.sleep(_REOPEN_SECONDS)
                else:
                    fresh.exchanges.memory = lost.memory
                    fresh.exchanges.warned = lost.warned
                    self.parts = fresh


async def _stop(task: asyncio.Task[None] | None) -> None:
    if task is not None:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@dataclasses.dataclass(frozen=True)
class _Registry:
    """Runtimes by event loop: the one piece of process-wide state, so that mounts find each
    other. An event loop that is gone takes its entry along."""

    loops: "weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Settings, _Runtime]]" = (
        dataclasses.field(default_factory=weakref.WeakKeyDictionary)
    )


_REGISTRY = _Registry()


def _runtimes() -> dict[Settings, _Runtime]:
    return _REGISTRY.loops.setdefault(asyncio.get_running_loop(), {})
