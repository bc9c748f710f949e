"""Commands that go to Redis soon, and may be lost: wake-ups, hints, what is not needed there any
more."""

import asyncio
import contextlib
from collections import deque

from mcp_persist_middleware.stores.redis.client import RedisClient
from mcp_persist_middleware.stores.redis.errors import RedisAwayError
from mcp_persist_middleware.stores.redis.scripts import ScriptCall

_MOST = 8192


class DeferredCalls:
    """Nothing depends on them. They go together, when those before them have gone."""

    def __init__(self, client: RedisClient) -> None:
        self._client = client
        self._waiting: deque[ScriptCall] = deque(maxlen=_MOST)
        self._came = asyncio.Event()

    def __call__(self, *calls: ScriptCall) -> None:
        """Send them soon; for a Redis that is away none is kept."""
        if self._client.is_up:
            self._waiting.extend(calls)
            self._came.set()

    async def run(self) -> None:
        """Run until cancelled."""
        while True:
            await self._came.wait()
            self._came.clear()
            await self.send()

    async def send(self) -> None:
        """Send what waits."""
        calls = list(self._waiting)
        self._waiting.clear()
        if calls:
            with contextlib.suppress(RedisAwayError):
                await self._client.alone(calls)
