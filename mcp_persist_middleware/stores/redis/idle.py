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
        tails: WriteBehindBuffers,
        client: RedisClient,
        keys: Callable[[], Keys],
        later: Callable[[ScriptCall], None],
    ) -> None:
        self._tails = tails
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
        for tail in self._tails:
            if tail.resident and not tail.backlog and tail.touched < touched:
                self._later(self._settled(tail))

    def _settled(self, tail: WriteBehindBuffer) -> ScriptCall:
        tail.begun = tail.resident = False
        return scripts.SETTLE(self._keys().of(tail.id), tail.epoch, tail.last)
