"""Connections that are out of their pool. An event loop that ends cancels whoever would bring them
back, in the middle of it; then the pool knows nothing of them any more."""

import asyncio
import contextlib
from typing import Any

from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.util import greenlet_spawn


class CheckedOut:
    """Those of one engine, from the moment on when they leave its pool."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._out: dict[int, Any] = {}
        pool = engine.sync_engine.pool
        event.listen(pool, "checkout", self._left)
        event.listen(pool, "checkin", self._is_back)
        event.listen(pool, "invalidate", self._is_back)

    def _left(self, _: Any, record: Any, proxy: Any) -> None:
        self._out[id(record)] = proxy

    def _is_back(self, _: Any, record: Any, *__: Any) -> None:
        self._out.pop(id(record), None)

    async def take_back(self, timeout: float) -> None:
        """Close those that are still out."""
        out, self._out = self._out, {}
        for proxy in out.values():
            # Whatever state it was left in; it is closed, or nothing can be done about it.
            with contextlib.suppress(Exception):
                async with asyncio.timeout(timeout):
                    await greenlet_spawn(proxy.invalidate)
