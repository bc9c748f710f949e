"""The composition root: one worker on each event loop, shared by every mount with the same settings
on it, and a new one when its lease is lost."""

import asyncio
import contextlib
import dataclasses
import logging
import weakref
from collections.abc import Mapping
from typing import Any, Self

from mcp_persist_middleware import telemetry
from mcp_persist_middleware.errors import (
    ClosedError,
    ConfigurationError,
    PersistError,
    StoreError,
)
from mcp_persist_middleware.exchange.context import Context
from mcp_persist_middleware.log.base import MakeLog
from mcp_persist_middleware.settings import Settings
from mcp_persist_middleware.worker import Parts, Worker, stop

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
        log: instead of `url`, makes a store of yours (`mcp_persist_middleware.store`): called for
            each worker, once on an event loop and again after a lost lease.
        settings: as `PersistMiddleware` takes them; checked when the object is opened.
    """

    def __init__(
        self, url: str | None = None, *, log: MakeLog | None = None, **settings: Any
    ) -> None:
        named = {"url": url, "log": log}
        given = {name: value for name, value in named.items() if value is not None}
        self._given: Mapping[str, Any] = given | settings
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

    async def parts(self) -> Parts:
        """What requests on the running event loop share; opens the store when it is not open."""
        runtime = self._loop_runtime()
        if runtime.parts is None or self not in runtime.users:
            await runtime.start(self)
        parts = runtime.parts
        if parts is None:
            raise ClosedError
        return parts

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


class _Runtime:
    """One store on one event loop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = asyncio.Lock()
        self._worker: Worker | None = None
        self._renewal: asyncio.Task[None] | None = None
        self.users: set[Persistence] = set()

    @property
    def parts(self) -> Parts | None:
        return self._worker.parts if self._worker is not None else None

    async def start(self, user: Persistence) -> None:
        async with self._lock:
            if self._worker is None:
                self._worker = await Worker.open(self._settings, self._renew_soon)
            self.users.add(user)

    async def drain(self, user: Persistence) -> None:
        """The last user ends all; another one, unless the whole process stops, ends nothing."""
        if self.parts is not None:
            context = self.parts.exchanges
            if self.users == {user} or context.draining:
                await context.drain.finished()

    async def release(self, user: Persistence) -> None:
        if self.users <= {user}:
            await stop(self._renewal)
        await self.drain(user)
        async with self._lock:
            self.users.discard(user)
            if self.users or self._worker is None:
                return
            worker, self._worker = self._worker, None
            parts, context = worker.parts, worker.parts.exchanges
            await context.cancel_exchanges(_STOP_SECONDS)
            with contextlib.suppress(StoreError):
                await parts.sessions.keep()
            await context.writer.aclose(_STOP_SECONDS)
            await worker.leave()
            runtimes = _runtimes()
            if runtimes.get(self._settings) is self:
                del runtimes[self._settings]

    def _renew_soon(self) -> None:
        if self.parts is not None and (self._renewal is None or self._renewal.done()):
            self._renewal = asyncio.create_task(self._renew(), name="mcp-persist-renewal")

    async def _renew(self) -> None:
        """Go on as a fresh worker after this one was apart for longer than its lease."""
        async with self._lock:
            before = self._worker
            if before is None or before.parts.exchanges.holds_lease:
                return
            lost = before.parts.exchanges
            logger.warning(
                "This worker stood still, or was cut off from the store, for longer than its lease "
                "(%s s) and may have been taken for dead; what it ran is given up, and it goes on "
                "as a new one",
                self._settings.lease_seconds,
            )
            telemetry.leases_lost.add(1)
            await lost.give_up(_STOP_SECONDS)
            for _ in range(_SETTLE_ROUNDS):
                await asyncio.sleep(0)
            await asyncio.sleep(_SETTLE_SECONDS)
            # What was deleted stays deleted, whoever holds the session now.
            for step in (before.parts.sessions.keep, before.leave):
                try:
                    await step()
                except Exception as error:  # noqa: BLE001
                    logger.warning("The store was not left in order: %s", _said(error))
            while self._worker is before:
                try:
                    fresh = await Worker.open(self._settings, self._renew_soon)
                except Exception as error:  # noqa: BLE001
                    # A store of somebody else's may fail in any way, and work the next time.
                    logger.warning("There is no new lease yet: %s", _said(error))
                    await asyncio.sleep(_REOPEN_SECONDS)
                else:
                    fresh.parts.exchanges.memory = lost.memory
                    fresh.parts.exchanges.warned = lost.warned
                    self._worker = fresh


def _said(error: Exception) -> str:
    """What may be logged of an error: in the text of another's there may be a secret."""
    return str(error) if isinstance(error, PersistError) else type(error).__name__


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
