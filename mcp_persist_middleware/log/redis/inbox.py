"""Letters between workers, with Redis in front: the letters are in SQL, the wake-ups in Redis.

A session's move addresses the letters that wait for it anew, in the transaction that gives the
session its next home (`Sessions.move`), and a letter may only be posted where the session is at
home: both are one statement in SQL, and Redis could join neither. A Redis that forgets, or fails
over to a replica that is behind, would bring a claimed letter back to life, and a request would
run twice. What a relayed call saves with Redis is the waiting, and that is what it is used for.
"""

from collections.abc import Callable, Collection

from mcp_persist_middleware.log.base import Inbox
from mcp_persist_middleware.model import Letter, LetterStatus, Posted


class WokenInbox(Inbox):
    """An `Inbox` whose readers are woken at once.

    Args:
        wake: wakes whoever waits for a topic, sooner or later; see `Inbox`.
    """

    def __init__(self, inner: Inbox, wake: Callable[[bytes], None]) -> None:
        self._inner = inner
        self._wake = wake

    async def publish(self, worker: str, public_key: bytes) -> None:
        await self._inner.publish(worker, public_key)

    async def public_key(self, worker: str) -> bytes | None:
        return await self._inner.public_key(worker)

    async def put(self, letter: Letter, most: int) -> Posted:
        posted = await self._inner.put(letter, most)
        if posted is Posted.WAITING:
            self._wake(self.topic(letter.worker))
        return posted

    async def claim(self, worker: str, limit: int, now: float, deadline: float) -> list[Letter]:
        return await self._inner.claim(worker, limit, now, deadline)

    async def claimed(self, worker: str) -> list[bytes]:
        return await self._inner.claimed(worker)

    async def withdraw(self, letter: bytes) -> bool:
        return await self._inner.withdraw(letter)

    async def bar(self, letter: bytes, deadline: float) -> bool:
        return await self._inner.bar(letter, deadline)

    async def answer(self, letter: bytes, worker: str, reply: bytes, deadline: float) -> bool:
        answered = await self._inner.answer(letter, worker, reply, deadline)
        if answered:
            self._wake(letter)
        return answered

    async def look(self, letter: bytes) -> LetterStatus | None:
        return await self._inner.look(letter)

    async def remove(self, letters: Collection[bytes]) -> None:
        await self._inner.remove(letters)

    async def purge(self, now: float, limit: int) -> int:
        return await self._inner.purge(now, limit)
