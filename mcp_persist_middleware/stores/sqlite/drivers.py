"""The driver's connections, each with a thread of its own. One whose opening or closing was
cancelled ends some time after that, and says so to an event loop that may be gone by then."""

import asyncio
import threading
import time
from typing import Any

import aiosqlite

from mcp_persist_middleware.redaction import hush_driver

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


def _thread(driver: Any) -> threading.Thread:
    found: threading.Thread = driver._thread  # noqa: SLF001
    return found
