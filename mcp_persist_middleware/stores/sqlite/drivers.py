"""The driver's connections, each with a thread of its own. One whose opening or closing was
cancelled ends some time after that, and says so to an event loop that may be gone by then."""

import asyncio
import concurrent.futures
import sqlite3
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import aiosqlite

from mcp_persist_middleware.redaction import hush_driver

T = TypeVar("T")

_LOOK = 0.002
_MOST = 64


class Drivers:
    """Those of one log, of its pool and of its heartbeat."""

    def __init__(self) -> None:
        self._made: list[aiosqlite.Connection] = []

    def connect(self, *given: Any, **named: Any) -> aiosqlite.Connection:
        """A connection that is not open yet, as the driver makes it. Any thread may call this."""
        made = aiosqlite.connect(*given, **named)
        _thread(made).daemon = True
        hush_driver(_thread(made))
        if len(self._made) >= _MOST:
            self._made = [each for each in self._made if _thread(each).is_alive()]
        self._made.append(made)
        return made

    async def end(self, timeout: float) -> bool:
        """Close what is still open, and wait for the threads; whether all of them have ended."""
        made, self._made = self._made, []
        alive = [each for each in made if _thread(each).is_alive()]
        for each in alive:
            if getattr(each, "_running", False):
                each.stop()
        until = time.monotonic() + timeout
        while alive and time.monotonic() < until:
            await asyncio.sleep(_LOOK)
            alive = [each for each in alive if _thread(each).is_alive()]
        return not alive


def in_thread_of(
    driver: aiosqlite.Connection, work: Callable[[sqlite3.Connection], T]
) -> Coroutine[Any, Any, T]:
    """Run a piece of work in the driver's thread. aiosqlite has no public way to run several
    statements in one hop; SQLAlchemy's own dialect reaches deeper."""
    running: Coroutine[Any, Any, T] = driver._execute(work, driver._conn)  # type: ignore[no-untyped-call]  # noqa: SLF001
    return running


def submit(driver: Any, work: Callable[[sqlite3.Connection], T]) -> "concurrent.futures.Future[T]":
    """Have the driver's thread run a piece of work, in turn and whatever becomes of who asked.

    aiosqlite tells its results to the event loop only; who waits for them in the loop's own thread
    needs a future of threads.

    Raises:
        ValueError: the connection is closed.
    """
    done: concurrent.futures.Future[T] = concurrent.futures.Future()
    connection = driver._conn  # noqa: SLF001
    # From here on nobody can cancel it.
    done.set_running_or_notify_cancel()

    def run() -> None:
        try:
            done.set_result(work(connection))
        except BaseException as error:  # noqa: BLE001 # it is told to who asked
            done.set_exception(error)

    if not driver._running:  # noqa: SLF001
        raise ValueError("Connection closed")
    driver._tx.put_nowait((None, run))  # noqa: SLF001
    return done


def _thread(driver: Any) -> threading.Thread:
    found: threading.Thread = driver._thread  # noqa: SLF001
    return found
