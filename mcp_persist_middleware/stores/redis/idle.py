"""Streams that have been quiet for a while are taken out of Redis: it is for what moves."""

import time
from collections.abc import Callable

from mcp_persist_middleware.stores.redis import scripts
from mcp_persist_middleware.stores.redis.client import RedisClient
from mcp_persist_middleware.stores.redis.scripts import Keys, ScriptCall
from mcp_persist_middleware.stores.redis.write_behind import WriteBehindBuffer, WriteBehindBuffers

# For so long nothing has come, and so often it is looked (seconds).
_IDLE, _LOOK = 5.0, 1.0


class IdleStreams:
    """Those of ours of which SQL has everything.

    Args:
        keys: the names of all that is ours.
        later: sends commands to Redis soon after; nothing depends on them.
    """

    def __init__(
        self,
        buffers: WriteBehindBuffers,
        client: RedisClient,
        keys: Callable[[], Keys],
        later: Callable[[ScriptCall], None],
    ) -> None:
        self._buffers = buffers
        self._client = client
        self._keys = keys
        self._later = later
        self._looked = 0.0

    def settle(self) -> None:
        """Take out those that are idle, if that is due. Called often."""
        now = time.monotonic()
        if now - self._looked >= _LOOK and self._client.is_up:
            self._looked = now
            self.settle_until(now - _IDLE)

    def settle_until(self, touched: float) -> None:
        """Take out those to which nothing has come since then (of the monotonic clock)."""
        for buffer in self._buffers:
            if buffer.resident and not buffer.backlog and buffer.touched < touched:
                self._later(self._settled(buffer))

    def _settled(self, buffer: WriteBehindBuffer) -> ScriptCall:
        buffer.begun = buffer.resident = False
        return scripts.SETTLE(self._keys().of(buffer.id), buffer.epoch, buffer.last)
