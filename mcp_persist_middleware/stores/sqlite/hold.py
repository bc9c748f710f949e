"""Waiting for a driver's thread with the event loop held still.

A busy event loop takes the interpreter lock back before the driver's thread has woken up, for tens
of milliseconds on end; a commit that takes 0.1 ms is over sooner when the loop waits, and what came
of it is at hand without another round of the loop.
"""

import asyncio
import sqlite3
from collections.abc import Callable
from typing import TypeVar

import aiosqlite

from mcp_persist_middleware.stores.sqlite.drivers import submit

T = TypeVar("T")

# How long (seconds) the event loop waits for a commit. 16 streams flat out have an event after
# 8.4 ms so, after 12 ms with a fifth of it, for their batches take longer; on a busy machine one at
# 200 events/s has it 0.3 to 0.6 ms later than bare, and not 0.7 to 1.0. The price: everything else
# in the process may be late by as much. After a commit that took longer the next is not waited for,
# after two in a row the next two, then four, and so on: the disk is slow then.
_HOLD, _SLOWEST = 0.01, 7


class HeldLoop:
    """Runs work in a driver's thread, and holds the event loop for at most `_HOLD` where that has
    been enough lately."""

    def __init__(self) -> None:
        self._slow = self._unheld = 0

    async def run(self, driver: aiosqlite.Connection, work: Callable[[sqlite3.Connection], T]) -> T:
        """What the work returns, or raises. It runs to its end, whoever is cancelled."""
        done = submit(driver, work)
        if self._unheld:
            self._unheld -= 1
        else:
            try:
                result = done.result(_HOLD)
            except TimeoutError:
                self._slow = min(self._slow + 1, _SLOWEST)
            else:
                self._slow = 0
                return result
            finally:
                self._unheld = (1 << self._slow) >> 1
        return await asyncio.wrap_future(done)
