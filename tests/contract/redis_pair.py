"""Two workers behind one Redis, one of which relays requests to the other."""

import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

from mcp_persist_middleware.model import EnqueueResult, RelayRequest, RelayState, RelayStatus
from mcp_persist_middleware.stores.redis.inbox import RedisInbox
from mcp_persist_middleware.stores.redis.log import RedisLog
from mcp_persist_middleware.testing.contract.builders import begin_session, relayed
from tests.contract.redis_builders import Place, is_up

ANSWERED = RelayStatus(RelayState.REPLIED, "one", b"done")


class Pair:
    """An addressee and a sender, two workers on one place."""

    def __init__(self, place: Place, one: RedisLog, two: RedisLog) -> None:
        self.place = place
        self.one = one
        self.two = two
        self.home, self.sender = one.inbox, two.inbox
        assert isinstance(self.home, RedisInbox)
        assert isinstance(self.sender, RedisInbox)

    async def claim(self, limit: int = 100) -> list[RelayRequest]:
        """What the addressee gets."""
        now = time.time()
        return await self.home.claim("one", limit, now, now + 60)

    async def served(self) -> list[bytes]:
        """The same: the ids of those it runs."""
        return [each.id for each in await self.claim() if not each.not_executable]

    async def put(self, **more: Any) -> RelayRequest:
        """A relayed request that waits, in Redis."""
        sent = fresh(**more)
        assert await self.sender.put(sent, 100) is EnqueueResult.ENQUEUED
        return sent

    async def answer(self, sent: RelayRequest, reply: bytes = b"done") -> bool:
        """Answer it."""
        return await self.home.answer(sent.id, "one", reply, time.time() + 60)

    async def both_up(self) -> None:
        """Both use Redis."""
        await is_up(self.one)
        await is_up(self.two)

    def keys(self) -> list[bytes]:
        """All that lies in Redis for relayed requests."""
        with contextlib.closing(self.place.client) as client:
            return list(client.scan_iter("*{w:*"))


def fresh(**more: Any) -> RelayRequest:
    return relayed(deadline=time.time() + 20, **more)


@contextlib.asynccontextmanager
async def workers(place: Place, **more: Any) -> AsyncIterator[Pair]:
    async with place.worker("one", **more) as one, place.worker("two", **more) as two:
        await begin_session(one)
        yield Pair(place, one, two)


async def in_sql(pair: Pair) -> list[bytes]:
    """The ids of the relayed requests that lie in SQL."""
    inner = pair.one.inner.inbox
    return [each.id for each in await inner.claim("one", 100, time.time(), time.time() + 60)]
