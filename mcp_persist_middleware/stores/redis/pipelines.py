"""What many ask of Redis at the same moment goes to it together: an exchange costs its client more
than a call does."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from mcp_persist_middleware.stores.redis.scripts import ScriptCall
from mcp_persist_middleware.supervision import Tasks

# So many exchanges are on their way at once, with so many calls each; what comes meanwhile waits.
_AT_ONCE, _CALLS = 2, 256

_Asked = tuple[Sequence[ScriptCall], "asyncio.Future[list[Any]]"]


class Pipelines:
    """Gathers calls, in their order, for as long as others are on their way.

    Args:
        exchange: gives the replies to calls, within a time.
        tasks: own what is on its way.
    """

    def __init__(
        self, exchange: Callable[[Sequence[ScriptCall]], Awaitable[list[Any]]], tasks: Tasks
    ) -> None:
        self._exchange = exchange
        self._tasks = tasks
        self._waiting: deque[_Asked] = deque()
        self._senders = 0

    async def run(self, calls: Sequence[ScriptCall]) -> list[Any]:
        """The replies. They are awaited to their end even when whoever asks is cancelled: the
        driver would lose the connection to that.

        Raises:
            RedisAwayError: no answer. Each call may have been done or not.
        """
        replies: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self._waiting.append((calls, replies))
        if self._senders < _AT_ONCE:
            self._senders += 1
            self._tasks.begin(self._send())
        return await replies

    async def _send(self) -> None:
        try:
            while asked := self._gather():
                await self._ask(asked)
        finally:
            self._senders -= 1

    def _gather(self) -> list[_Asked]:
        found: list[_Asked] = []
        left = _CALLS
        while self._waiting and (not found or len(self._waiting[0][0]) <= left):
            found.append(self._waiting.popleft())
            left -= len(found[-1][0])
        return found

    async def _ask(self, asked: list[_Asked]) -> None:
        try:
            found = await self._exchange([call for calls, _ in asked for call in calls])
        except asyncio.CancelledError:
            # With its event loop.
            for _, replies in asked:
                replies.cancel()
            raise
        except Exception as error:  # noqa: BLE001
            for _, replies in asked:
                if not replies.done():
                    replies.set_exception(error)
            return
        for calls, replies in asked:
            mine, found = found[: len(calls)], found[len(calls) :]
            if not replies.done():
                replies.set_result(mine)
