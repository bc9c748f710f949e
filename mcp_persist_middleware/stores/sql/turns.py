"""Who has one of few connections next: whoever came first.

The pool of SQLAlchemy waits in an `asyncio.Queue`: what comes back to that goes to whoever asks
just then, and who was woken for it waits again, behind all others. Under load the oldest wait
longest.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from mcp_persist_middleware.errors import StoreError


class Turns:
    """A queue for so many places.

    Args:
        places: None for any number of them.
        seconds: how long anybody waits for one.
        name: of the store, for what is raised.
    """

    def __init__(self, places: int | None, seconds: float, name: str) -> None:
        self._places = asyncio.Semaphore(places) if places is not None else None
        self._seconds = seconds
        self._name = name

    @contextlib.asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        """A place.

        Raises:
            StoreError: none was free in time.
        """
        if self._places is None:
            yield
            return
        try:
            async with asyncio.timeout(self._seconds):
                await self._places.acquire()
        except TimeoutError as error:
            reason = f"no connection to it was free in {self._seconds:g} s"
            raise StoreError(url=self._name, reason=reason) from error
        try:
            yield
        finally:
            self._places.release()
