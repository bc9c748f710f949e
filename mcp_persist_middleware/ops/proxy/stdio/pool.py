"""The children of one command: begun, found, reaped, and never shared by callers."""

import asyncio
import contextvars
import functools
import secrets
from collections.abc import Sequence

from mcp_persist_middleware import rarely
from mcp_persist_middleware.ops.proxy.breaker import CircuitBreaker
from mcp_persist_middleware.ops.proxy.stdio.child import BusyError, Child
from mcp_persist_middleware.ops.proxy.stdio.guard import Guard
from mcp_persist_middleware.ops.proxy.stdio.options import Redaction, StdioOptions, checked
from mcp_persist_middleware.ops.proxy.stdio.process import ChildLog, started
from mcp_persist_middleware.supervision import Supervisor, begin_task, retrieve

logger = rarely.logger(__name__)

_MAKES_ROOM_AFTER = 60.0
_ROUNDS = 4
"""A child outlives its idle time by a part of it at most."""


class UnstartableError(Exception):
    """The command cannot be run now."""


class Children:
    """All processes of one command.

    Raises:
        ConfigurationError: the command cannot be run.
    """

    def __init__(self, command: Sequence[str], options: StdioOptions) -> None:
        self.options = options
        self.breaker = CircuitBreaker()
        self._command = checked(command, options)
        self._said = ChildLog(self._command[0], Redaction(options))
        self._sessions: dict[str, Child] = {}
        self._owned: dict[str, asyncio.Task[Child]] = {}
        self._all: set[Child] = set()
        self._beginning = 0
        self._guard: Guard | None = None
        self._tasks: Supervisor | None = None

    def __len__(self) -> int:
        return sum(not child.is_over for child in self._all) + self._beginning

    def session(self, session_id: str) -> Child | None:
        """The child that serves a session, if it is there."""
        child = self._sessions.get(session_id)
        return child if child is not None and not child.is_over else None

    def keep(self, child: Child) -> str:
        """The new session of a child that has accepted `initialize`."""
        session_id = secrets.token_hex(16)
        self._sessions[session_id] = child
        return session_id

    async def of(self, owner: str) -> Child:
        """The child that serves this caller's requests.

        Raises:
            BusyError, UnstartableError: as `begin`.
        """
        task = self._owned.get(owner)
        if task is None or _is_over(task):
            task = self._owned[owner] = begin_task(
                self.begin(is_session=False), "mcp-persist-child", context=contextvars.Context()
            )
            # Whoever waits for it hears of it; when nobody does, nobody needs to.
            task.add_done_callback(retrieve)
            task.add_done_callback(functools.partial(self._begun, owner))
        return await asyncio.shield(task)

    def _begun(self, owner: str, task: asyncio.Task[Child]) -> None:
        """Of callers that were refused nothing is kept: they are as many as they like."""
        if _is_over(task) and self._owned.get(owner) is task:
            del self._owned[owner]

    async def begin(self, *, is_session: bool) -> Child:
        """A child of its own.

        Raises:
            BusyError: there are too many.
            UnstartableError: the system refuses.
        """
        if self._tasks is None:
            self._tasks, self._guard = Supervisor(), Guard()
            self._tasks.keep(self._reap, "mcp-persist-stdio-reap")
        assert self._guard is not None
        if len(self) >= self.options.max_children and not self._make_room():
            raise BusyError
        if not self.breaker.admits():
            raise BusyError(self.breaker.retry_after)
        self._beginning += 1
        try:
            process = await started(
                self._command, self.options, self._guard, self._said, self._tasks
            )
        except OSError as error:
            self.breaker.failed()
            raise UnstartableError(error.strerror or type(error).__name__) from error
        except BaseException:
            # It may have been the one that tries whether the command can be run again.
            self.breaker.withdrawn()
            raise
        finally:
            self._beginning -= 1
        child = Child(process, self.options, self._tasks, is_session=is_session)
        child.on_first_message = self.breaker.succeeded
        self._all.add(child)
        self._tasks.spawn(self._watch(child), "mcp-persist-stdio-watch")
        return child

    def end(self, child: Child) -> None:
        """Stop it, meanwhile."""
        child.leave()
        if self._tasks is not None:
            self._tasks.spawn(child.stop(), "mcp-persist-stdio-end")

    def failed(self, child: Child) -> None:
        """Stop one that does not answer."""
        self.breaker.failed()
        self.end(child)

    async def aclose(self) -> None:
        """Stop them all, together. May be called twice."""
        tasks, self._tasks = self._tasks, None
        guard, self._guard = self._guard, None
        await asyncio.gather(*(child.stop() for child in self._all), return_exceptions=True)
        if tasks is not None:
            await tasks.aclose()
        if guard is not None:
            await guard.aclose()
        self._all.clear()
        self._sessions.clear()
        self._owned.clear()

    async def _watch(self, child: Child) -> None:
        """Forget it when it has ended."""
        await child.ended()
        self._all.discard(child)
        self._sessions = {name: c for name, c in self._sessions.items() if c is not child}
        self._owned = {o: t for o, t in self._owned.items() if not _is_over(t)}
        if not child.has_answered:
            (self.breaker.withdrawn if child.is_ended_by_us else self.breaker.failed)()

    async def _reap(self) -> None:
        while True:
            await asyncio.sleep(self.options.idle_seconds / _ROUNDS)
            for child in self._idle(self.options.idle_seconds):
                self.end(child)

    def _make_room(self) -> bool:
        """Whether one that has been idle, the one that was so for longest, goes for another."""
        seconds = min(_MAKES_ROOM_AFTER, self.options.idle_seconds)
        found = min(self._idle(seconds), key=lambda child: child.used_at, default=None)
        if found is None:
            return False
        logger.info("The longest idle of %d children makes room for another", len(self))
        self.end(found)
        return True

    def _idle(self, seconds: float) -> list[Child]:
        before = asyncio.get_running_loop().time() - seconds
        return [
            child
            for child in self._all
            if child.is_idle and not child.is_over and child.used_at <= before
        ]


def _is_over(task: asyncio.Task[Child]) -> bool:
    """Whether what this has begun serves nobody any more."""
    return task.done() and (
        task.cancelled() or task.exception() is not None or task.result().is_over
    )
