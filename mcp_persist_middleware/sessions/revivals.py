"""Who asks for sessions that are not held here: one at a time for each, nobody twice in vain."""

import asyncio
import time
import weakref
from collections.abc import Hashable

from mcp_persist_middleware.recent import Recent

_MOST_REFUSED, _REFUSED_SECONDS = 1000, 1.0


class Revivals:
    """The revivals of one worker, and those who were refused one of late."""

    def __init__(self) -> None:
        self._locks: weakref.WeakValueDictionary[Hashable, asyncio.Lock] = (
            weakref.WeakValueDictionary()
        )
        self._refused: Recent[Hashable, float] = Recent(_MOST_REFUSED)
        """Until when that holds."""

    def lock(self, key: Hashable) -> asyncio.Lock:
        """Whoever brings a session back holds this, and whoever asks for one that he may not own
        holds one of his own."""
        lock = self._locks.get(key)
        if lock is None:
            self._locks[key] = lock = asyncio.Lock()
        return lock

    def refuse(self, alike: Hashable) -> None:
        """Who asks for a session like this has been seen not to own it."""
        self._refused[alike] = time.monotonic() + _REFUSED_SECONDS

    def was_refused(self, alike: Hashable) -> bool:
        """Whether that was a moment ago."""
        return self._refused.get(alike, 0.0) > time.monotonic()
