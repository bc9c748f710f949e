"""Streams that are erased go out of Redis first, which would put them back otherwise."""

from collections.abc import Collection

from mcp_persist_middleware.errors import StoreError
from mcp_persist_middleware.stores.redis import scripts
from mcp_persist_middleware.stores.redis.client import RedisClient
from mcp_persist_middleware.stores.redis.errors import RedisAwayError
from mcp_persist_middleware.stores.redis.flush import Flusher
from mcp_persist_middleware.stores.redis.scripts import Keys
from mcp_persist_middleware.stores.redis.write_behind import WriteBehindBuffers


class Eraser:
    """Sees that Redis has nothing of some streams, and takes nothing of them any more."""

    def __init__(self, client: RedisClient, buffers: WriteBehindBuffers, flusher: Flusher) -> None:
        self._client = client
        self._buffers = buffers
        self._flusher = flusher

    async def erase(self, keys: Keys, streams: Collection[bytes]) -> None:
        """What waits of them is in SQL after that, to be removed there.

        Raises:
            StoreError: Redis does not do it now.
        """
        async with self._flusher.lock:
            for buffer in filter(None, map(self._buffers.get, streams)):
                await self._flusher.only(buffer)
                self._buffers.drop(buffer)
        calls = [call for each in streams for call in scripts.erased(keys, each)]
        try:
            replies = await self._client.run(calls)
        except RedisAwayError as error:
            reason = "it is away, and may have a part of what is to be erased: try it again"
            raise StoreError(url=self._client.name, reason=reason) from error
        for reply in replies:
            if isinstance(reply, Exception):
                raise StoreError(url=self._client.name, reason=str(reply)) from reply
