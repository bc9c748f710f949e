"""Streams that are too young to be known: an event id may leave before its stream is committed, so
a cursor that is young by the time in its id is looked for again, a few times at most."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeAlias

from mcp_persist_middleware.errors import StoreError, TooManyWaitError
from mcp_persist_middleware.log.base import EventLog
from mcp_persist_middleware.model import StreamRecord
from mcp_persist_middleware.quota import Quota
from mcp_persist_middleware.supervision import Supervisor

# The pause (seconds) before the second look. Each is twice as long as the one before.
_FIRST_PAUSE = 0.05
# So many requests wait, of all and of one caller (or of one address): a cursor is easily made up.
_MOST_WAITING, _MOST_OF_ONE = 256, 16


_LookKey = tuple[bytes, int]
_Found: TypeAlias = "asyncio.Future[StreamRecord | None]"


class Newborn:
    """The requests of one worker that wait for streams to be committed."""

    def __init__(self, log: EventLog, tasks: Supervisor) -> None:
        self._log = log
        self._tasks = tasks
        self._waiting = Quota(_MOST_WAITING, _MOST_OF_ONE)
        self._looks: dict[_LookKey, _Found] = {}

    @contextmanager
    def waiting(self, account: str) -> Iterator[None]:
        """One more request of this caller waits, within the block.

        Raises:
            TooManyWaitError: it may not.
        """
        with self._waiting.of(account) as share:
            if not share.take():
                raise TooManyWaitError
            yield

    async def look(self, stream: bytes, number: int, within: float) -> StreamRecord | None:
        """What the store knows of a stream after the next pause, which ends `within` so many
        seconds. All who wait for the same look (they are numbered from 1) share it.

        Raises:
            StoreError: the store does not answer.
        """
        key = stream, number
        if key not in self._looks:
            self._looks[key] = found = asyncio.get_running_loop().create_future()
            # Whoever asked may have left when it fails.
            found.add_done_callback(asyncio.Future.exception)
            pause = min(_FIRST_PAUSE * 2 ** (number - 1), within)
            task = self._tasks.spawn(self._take(key, pause, found), "mcp-persist-newborn")
            task.add_done_callback(lambda _: self._taken(key, found))
        return await asyncio.shield(self._looks[key])

    async def _take(self, key: _LookKey, pause: float, found: _Found) -> None:
        try:
            await asyncio.sleep(pause)
            found.set_result(await self._log.find(key[0]))
        except Exception as error:  # noqa: BLE001
            # It is for those who wait.
            found.set_exception(error)

    def _taken(self, key: _LookKey, found: _Found) -> None:
        del self._looks[key]
        if not found.done():
            found.set_exception(StoreError(url=self._log.name, reason="the worker ends"))
