"""Where tasks begin, and who owns them: no task without an owner, none that outlives it, and none
keeps another from closing.

What runs for as long as a block is `scoped`; what an object has under way are its `Tasks`; what
runs beside the requests of a worker is a child of a `Supervisor`. Who calls `begin_task` itself
holds that one task, and ends it.
"""

import asyncio
import contextlib
import contextvars
import logging
import traceback
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any, TypeVar

from mcp_persist_middleware import telemetry
from mcp_persist_middleware.errors import PersistError

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Between a child's death and its next life (seconds); one that lived for long begins anew.
_FIRST_PAUSE, _LAST_PAUSE, _LONG = 0.25, 30.0, 60.0
# Some drivers do not let every cancellation through: it is said again after so long (seconds).
_AGAIN, _TIMES = 1.0, 3
# Tasks that are cancelled because their time is over.
_ending: "weakref.WeakSet[asyncio.Task[Any]]" = weakref.WeakSet()


def begin_task(
    work: Coroutine[Any, Any, T],
    name: str,
    *,
    context: contextvars.Context | None = None,
    group: asyncio.TaskGroup | None = None,
) -> asyncio.Task[T]:
    """Begin a task, in a copy of the current context if none is given. Nothing else begins any."""
    create = asyncio.create_task if group is None else group.create_task
    return create(work, name=name, context=context)


@contextlib.contextmanager
def scoped(work: Coroutine[Any, Any, T], name: str) -> Iterator[asyncio.Task[T]]:
    """A task beside a block, which is cancelled when the block is left."""
    task = begin_task(work, name)
    try:
        yield task
    finally:
        task.cancel()


class Tasks:
    """What one object has under way, until each has ended.

    Args:
        name: what each of these tasks is called.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._running: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._running)

    def __iter__(self) -> Iterator[asyncio.Task[Any]]:
        return iter(self._running)

    def begin(
        self, work: Coroutine[Any, Any, T], *, context: contextvars.Context | None = None
    ) -> asyncio.Task[T]:
        """One more, in a copy of the current context if none is given."""
        task = begin_task(work, self._name, context=context)
        # The event loop itself holds only weak references.
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    def whole(self, work: Coroutine[Any, Any, T]) -> asyncio.Future[T]:
        """Have it finished even when who waits for it is cancelled: it is bounded by itself. What
        it raises then nobody hears."""
        task = self.begin(work)
        task.add_done_callback(retrieve)
        return asyncio.shield(task)

    def cancel(self) -> None:
        """Cancel all; they may take a while to end."""
        for task in list(self._running):
            task.cancel()

    async def ended(self, timeout: float) -> None:
        """Wait until all have ended, for so long (seconds) at most."""
        if self._running:
            await asyncio.wait(self._running, timeout=timeout)


class Supervisor:
    """Owns tasks, and ends them.

    Args:
        owner: the task whose life this is: when it is cancelled, with its event loop for one, its
            children end as well. Without one any cancellation ends a child.
        group: an open task group of the owner's, for the children to be in.
    """

    def __init__(
        self, owner: asyncio.Task[Any] | None = None, group: asyncio.TaskGroup | None = None
    ) -> None:
        self._owner = owner
        self._group = group
        self._children: set[asyncio.Task[None]] = set()
        self._is_over = False

    def keep(self, run: Callable[[], Awaitable[None]], name: str) -> asyncio.Task[None]:
        """A child that is there until the end. One that dies is said, counted, and lives again
        after a pause; one that returns has done its work."""
        return self._begin(self._again_and_again(run, name), name)

    def spawn(self, work: Coroutine[Any, Any, object], name: str) -> asyncio.Task[None]:
        """A child with one piece of work to do. What it raises is said and counted."""
        return self._begin(_once(work, name), name)

    async def aclose(self) -> None:
        """End every child; what comes later is not begun. A second call does nothing."""
        self._is_over = True
        await end(*self._children)

    def _begin(self, run: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        group = None if self._is_over else self._group
        # A context of its own: that of a request would live as long as the task.
        task = begin_task(run, name, context=contextvars.Context(), group=group)
        self._children.add(task)
        task.add_done_callback(self._children.discard)
        if self._is_over:
            task.cancel()
        return task

    async def _again_and_again(self, run: Callable[[], Awaitable[None]], name: str) -> None:
        loop, pause = asyncio.get_running_loop(), 0.0
        while True:
            began = loop.time()
            try:
                await asyncio.sleep(pause)
                await run()
            except asyncio.CancelledError as error:
                if self._is_meant():
                    raise
                say(name, error)
            except Exception as error:  # noqa: BLE001
                say(name, error)
            else:
                return
            lived_long = loop.time() - began > pause + _LONG
            pause = _FIRST_PAUSE if lived_long else min(max(_FIRST_PAUSE, 2 * pause), _LAST_PAUSE)

    def _is_meant(self) -> bool:
        """Whether the current task is cancelled by whoever it belongs to."""
        owner = self._owner
        has_ended = owner is None or owner.done() or owner.cancelling() > 0
        return self._is_over or has_ended or asyncio.current_task() in _ending


async def end(*tasks: asyncio.Task[Any] | None) -> None:
    """Cancel tasks and wait until they have ended, for a few seconds at most. What they raise is
    theirs; the caller's own cancellation is heard."""
    known = [task for task in tasks if task is not None]
    waiting = {task for task in known if not task.done()}
    for _ in range(_TIMES):
        for task in waiting:
            _ending.add(task)
            task.cancel()
        if waiting:
            _, waiting = await asyncio.wait(waiting, timeout=_AGAIN)
    for task in known:
        if not task.done():
            logger.warning("MPM-WORKER-08: %s does not end, and is left alone", task.get_name())
        else:
            retrieve(task)


def retrieve(task: asyncio.Task[Any]) -> None:
    """Let nobody say that what a task raised was never asked for."""
    if not task.cancelled():
        task.exception()


def said(error: BaseException) -> str:
    """What may be logged of an error: in the text of somebody else's there may be a secret."""
    return str(error) if isinstance(error, PersistError) else type(error).__name__


def frames(error: BaseException) -> str:
    """Where an error comes from; neither its text nor a line of code, which may hold a secret."""
    found = traceback.StackSummary.extract(
        traceback.walk_tb(error.__traceback__), lookup_lines=False
    )
    return "\n".join(f'  File "{f.filename}", line {f.lineno}, in {f.name}' for f in found)


async def _once(work: Coroutine[Any, Any, object], name: str) -> None:
    try:
        await work
    except Exception as error:  # noqa: BLE001
        say(name, error)
    finally:
        # One that never took its first step has nothing to complain of.
        work.close()


def say(name: str, error: BaseException) -> None:
    """Somebody's task has ended by an error that is not its caller's to hear."""
    telemetry.task_failures.add(1, {"task": name})
    logger.error(
        "MPM-WORKER-09: %s ended by an error and is looked after: %s\n%s",
        name,
        said(error),
        frames(error),
    )
