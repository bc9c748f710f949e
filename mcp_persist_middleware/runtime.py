"""One worker on each event loop, shared by every mount with the same settings on it, and a new one
when its lease is lost."""

import asyncio
import contextvars
import dataclasses
import logging
import time
import weakref
from collections.abc import Mapping

from mcp_persist_middleware import telemetry
from mcp_persist_middleware.errors import ClosedError, NoEventLoopError, StoreError
from mcp_persist_middleware.health import Examiner, examined
from mcp_persist_middleware.sessions.registry import Registry
from mcp_persist_middleware.settings import Settings
from mcp_persist_middleware.streams.memory import Memory
from mcp_persist_middleware.supervision import begin_task, said, say
from mcp_persist_middleware.wakeups.local import Signal
from mcp_persist_middleware.worker import Parts, Worker

logger = logging.getLogger(__name__)

# Between two attempts to open a store (seconds).
_FIRST_PAUSE, _LAST_PAUSE = 0.25, 15.0
# After another worker has taken over: what waited in the sockets meanwhile has been read when the
# event loop has gone round so often and so much time (seconds) is over.
_SETTLE_ROUNDS, _SETTLE_SECONDS = 10, 0.2


class Runtime:
    """One store on one event loop. A task of its own opens it, begins anew when the lease is lost,
    and closes it: when the last user has left, or with the event loop at the latest."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.loop = asyncio.get_running_loop()
        self.memory = Memory()
        """What this event loop knows of the application."""
        self.users: set[object] = set()
        self.parts: Parts | None = None
        """What is open, with its lease or without it; None until it is, and at the end."""
        self.error: Exception | None = None
        """Why the last attempt to open the store has failed; None while there was none."""
        self.was_taken = False
        """Whether another worker may have taken over what the one before this one had."""
        self.examiner = Examiner()
        self.is_over = False
        self._changed = Signal()
        self._since = time.monotonic()
        """When the store began to be away."""
        self._lost = asyncio.Event()
        self._pause, self._due = _FIRST_PAUSE, 0.0
        self._task: asyncio.Task[None] | None = None

    def numbers(self) -> Mapping[str, float | None]:
        """What the worker has to show now; read in any thread."""
        parts = self.parts
        return {} if parts is None else examined(parts.exchanges, None, {}).numbers()

    async def start(self, user: object) -> None:
        """Open the store for one more user. One that is away is tried again now.

        Raises:
            StoreError, or whatever a store of somebody else's raises: it cannot be opened.
        """
        self.users.add(user)
        if self.parts is None:
            self.error, self._due = None, 0.0
        while self.parts is None:
            self._try()
            if self.is_over:
                raise ClosedError
            await self._changed.wait(_LAST_PAUSE)
            if self.error is not None:
                error = self.error
                await self.release(user)
                raise error

    async def held(self, user: object) -> Parts:
        """What is open, with its lease; waits for that as long as a store may be away. One that
        could not be opened the last time is not waited for.

        Raises:
            ClosedError: it is being closed.
            StoreError, or whatever a store of somebody else's raises: it is away.
        """
        self.users.add(user)
        while True:
            parts = self.parts
            if parts is not None and parts.exchanges.holds_lease:
                return parts
            if self.is_over:
                raise ClosedError
            if parts is not None:
                self._lose()
            else:
                self._try()
            left = self._since + self.settings.store_timeout - time.monotonic()
            if self.error is not None and (parts is None or left <= 0):
                raise self.error
            if left <= 0:
                seconds = f"{self.settings.store_timeout:g} s"
                raise StoreError(url="that is being opened", reason=f"no answer in {seconds}")
            await self._changed.wait(left)

    def _try(self) -> None:
        """Open the store, soon: at most one attempt at a time, and none right after another."""
        if self._task is None and time.monotonic() >= self._due and not self.is_over:
            self._since = time.monotonic()
            # A context of its own: that of a request would live as long as the worker.
            self._task = begin_task(
                self._run(), "mcp-persist-worker", context=contextvars.Context()
            )

    async def drain(self, user: object) -> None:
        """The last user ends all; another one, unless the whole process stops, ends nothing."""
        if self.parts is not None:
            context = self.parts.exchanges
            if self.users == {user} or context.draining:
                await context.drain.finished()

    async def release(self, user: object) -> None:
        """One user less. The last one closes the store; whatever the store does meanwhile."""
        await self.drain(user)
        self.users.discard(user)
        if not self.users:
            self._end()
            if self._task is not None:
                # Once: what closes after it has a bounded time for each of its steps.
                self._task.cancel()
                await asyncio.wait({self._task})

    def _end(self) -> None:
        """Nobody comes to this one any more."""
        self.is_over = True
        _forget(self)

    def _lose(self) -> None:
        if not self._lost.is_set():
            self._since = time.monotonic()
            self._lost.set()

    # What the task does.

    async def _run(self) -> None:
        worker: Worker | None = None
        try:
            if (worker := await self._opened()) is None:
                return
            while True:
                self._set(worker.parts)
                await self._lost.wait()
                await self._retire(worker)
                worker = await self._opened_at_last(worker.parts.sessions)
        except Exception as error:  # noqa: BLE001
            say("The worker", error)
        finally:
            if worker is not None or self.parts is not None or self.error is None:
                self._end()
            if worker is not None:
                await worker.leave()
            self._task = None
            self._set(None)

    async def _opened_at_last(self, before: Registry) -> Worker:
        while True:
            worker = await self._opened(before)
            if worker is not None:
                return worker
            await asyncio.sleep(self._pause)

    async def _opened(self, before: Registry | None = None) -> Worker | None:
        """One attempt to be a worker, and to go on with the sessions of the one before it."""
        lost = asyncio.Event()
        try:
            worker = await Worker.open(self.settings, self.memory, lost.set, before)
        except Exception as error:  # noqa: BLE001
            # A store of somebody else's may fail in any way, and work the next time.
            telemetry.store_failures.add(1)
            if self.parts is not None:
                logger.warning("MPM-WORKER-05: There is no new lease yet: %s", said(error))
            self._pause = min(2 * self._pause, _LAST_PAUSE) if self.error else _FIRST_PAUSE
            self._due = time.monotonic() + self._pause
            self.error = error
            return None
        if self.error is not None:
            logger.warning(
                "MPM-STORE-11: The store %s is open now", worker.parts.exchanges.log.name
            )
        self._lost, self.error = lost, None
        return worker

    async def _retire(self, worker: Worker) -> None:
        """Make room for a fresh worker after this one was apart for longer than its lease."""
        self._lose()
        logger.warning(
            "MPM-WORKER-06: This worker stood still, or was cut off from the store, for longer "
            "than its lease "
            "(%s s) and may have been taken for dead; what it ran is given up, and it goes on "
            "as a new one",
            self.settings.lease_seconds,
        )
        telemetry.leases_lost.add(1)
        self.was_taken = await worker.give_up()
        if self.was_taken:
            for _ in range(_SETTLE_ROUNDS):
                await asyncio.sleep(0)
            await asyncio.sleep(_SETTLE_SECONDS)

    def _set(self, parts: Parts | None) -> None:
        self.parts = parts
        self._changed.notify()


@dataclasses.dataclass(frozen=True)
class _Runtimes:
    """Runtimes by event loop: the one piece of process-wide state, so that mounts find each
    other. Each goes with its event loop, or, where that was closed around it, when the next one
    comes."""

    loops: "weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Settings, Runtime]]" = (
        dataclasses.field(default_factory=weakref.WeakKeyDictionary)
    )


_REGISTRY = _Runtimes()


def find(settings: Settings) -> Runtime | None:
    """The runtime of these settings on the running event loop, if there is one."""
    return _runtimes().get(settings)


def find_or_make(settings: Settings) -> Runtime:
    """The same; one that nobody uses yet where there is none."""
    found = find(settings)
    if found is None:
        loops = _REGISTRY.loops
        for loop in [loop for loop in loops if loop.is_closed()]:
            del loops[loop]
        found = Runtime(settings)
        loops.setdefault(found.loop, {})[settings] = found
        telemetry.watch(found)
    return found


def _runtimes() -> Mapping[Settings, Runtime]:
    return _REGISTRY.loops.get(running_loop(), {})


def running_loop() -> asyncio.AbstractEventLoop:
    """The event loop that this runs on.

    Raises:
        NoEventLoopError: there is none of asyncio's.
    """
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise NoEventLoopError from None


def _forget(runtime: Runtime) -> None:
    loops = _REGISTRY.loops
    others = loops.get(runtime.loop, {})
    if others.get(runtime.settings) is runtime:
        del others[runtime.settings]
        if not others:
            del loops[runtime.loop]
