"""Relayed requests between workers, with Redis in front: they lie in Redis while their addressee
looks there, else in SQL, and never in both.

What makes this safe where a Redis may forget, fail over to a replica that is behind, or come back
with an older file:

- A relayed request is run only by the process it is addressed to, whose name nobody had before or
  will have after; and that remembers which relayed requests it has had.
- It is run only out of the memory that it was put into (see `requests`). What such a process
  finds that came out of another one it answers, if it has never had it, with the word that it was
  not run.
- Its sender trusts that it took a relayed request back, or tombstoned it, only if that was in the
  same memory. Where it was not, what became of the relayed request is not known, and that is said
  (`Certainty`).
- A reply is true wherever it is found: if Redis cannot take it, it stands in SQL.

So a relayed request is not tied to its session's row, and does not move with the session: the
addressee sees that it is not the session's home, and says so.
"""

import contextlib
import secrets
import time
from collections.abc import Callable, Collection

from mcp_persist_middleware.errors import StoreError
from mcp_persist_middleware.log.parts import Inbox
from mcp_persist_middleware.model import RelayRequest, RelayRequestId, SessionKey
from mcp_persist_middleware.recent import Recent
from mcp_persist_middleware.stores.redis import requests
from mcp_persist_middleware.stores.redis.client import RedisClient
from mcp_persist_middleware.stores.redis.dedup import DedupWindow
from mcp_persist_middleware.stores.redis.errors import RedisAwayError
from mcp_persist_middleware.stores.redis.scripts import Keys, ScriptCall
from mcp_persist_middleware.stores.redis.sender import LARGE, LOOK, MOST_KNOWN, Sender
from mcp_persist_middleware.wakeups.redis import RedisWakeups


class RedisInbox(Sender):
    """`Inbox` in Redis and SQL."""

    def __init__(
        self,
        inner: Inbox,
        client: RedisClient,
        keys: Callable[[], Keys],
        later: Callable[[ScriptCall], None],
        wakeups: RedisWakeups,
    ) -> None:
        super().__init__(inner, client, keys, later, wakeups.heard)
        self._wakeups = wakeups
        self._memory = DedupWindow()
        self._held: Recent[bytes, None] = Recent(MOST_KNOWN)
        """Relayed requests that were claimed in Redis and are not answered."""
        self._who = f"n{secrets.token_hex(8)}"
        self._questions = 0
        self._is_in_doubt = False
        """What a question claimed was not heard."""
        self._sql_due = 0.0

    async def claim(
        self, worker: str, limit: int, now: float, deadline: float
    ) -> list[RelayRequest]:
        found: list[RelayRequest] = []
        if self._is_up:
            try:
                found = await self._claim(worker, limit, now, deadline)
            except RedisAwayError:
                self._is_in_doubt = True
                self._sql_due = 0.0
        if len(found) < limit and (not self._is_up or time.monotonic() >= self._sql_due):
            self._sql_due = time.monotonic() + LOOK
            try:
                there = await self._inner.claim(worker, limit - len(found), now, deadline)
            except StoreError:
                # What was claimed in Redis is ours to run.
                self._sql_due = 0.0
                if not found:
                    raise
            else:
                found += [each for each in there if self._memory.takes(each)]
        return found

    async def _claim(
        self, worker: str, limit: int, now: float, deadline: float
    ) -> list[RelayRequest]:
        self._questions += 1
        box, nonce = self._box(worker), secrets.token_hex(8).encode()
        left = self._milliseconds(deadline)
        hint, *rows = await self._ask(
            box.claim(nonce, self._who, self._questions, limit, now, left, deadline)
        )
        found = [requests.relay_request_of(worker, row) for row in rows]
        if hint:
            self._sql_due = 0.0
        if self._is_in_doubt:
            unheard = await self._unheard(worker)
            found += [requests.not_executable(RelayRequestId(each, worker)) for each in unheard]
            self._is_in_doubt = False
        mine = [each for each in found if self._memory.takes(each)]
        for each in mine:
            self._held[each.id] = None
        return mine

    async def _unheard(self, worker: str) -> list[bytes]:
        claimed = await self._ask(ScriptCall(("SMEMBERS", self._box(worker).claimed)))
        return [each for each in claimed if each not in self._held]

    async def claimed(self, worker: str) -> list[bytes]:
        found = list(self._held)
        return found + [each for each in await self._inner.claimed(worker) if each not in found]

    async def renew(
        self, worker: str, requests: Collection[bytes], deadline: float
    ) -> Collection[bytes]:
        held = [each for each in requests if each in self._held]
        there = [each for each in requests if each not in self._held]
        if there:
            there = list(await self._inner.renew(worker, there, deadline))
        if held and self._is_up:
            box, left = self._box(worker), self._milliseconds(deadline)
            # One that is away may still have them.
            with contextlib.suppress(RedisAwayError):
                found = await self._ask(box.renew(held, left, deadline))
                held = [held[n - 1] for n in found]
        return there + held

    async def answer(self, request: bytes, worker: str, reply: bytes, deadline: float) -> bool:
        if request not in self._held:
            answered = await self._inner.answer(request, worker, reply, deadline)
            if answered:
                self._wakeups.publish([request])
            return answered
        keys = self._keys()
        name, is_large = RelayRequestId(request, worker), len(reply) > LARGE
        if is_large or not self._is_up:
            await self._inner.tombstone(name, deadline, reply)
        answered = True
        if self._is_up:
            text, state = (b"", "L") if is_large else (reply, "A")
            box, left = self._box(worker), self._milliseconds(deadline)
            message = keys.seal.seal(text, request, self._client.target.told)
            call = box.answer(request, text, left, keys.channel(request), state, message)
            try:
                answered = bool(await self._ask(call, certain=True))
            except RedisAwayError:
                if not is_large:
                    await self._inner.tombstone(name, deadline, reply)
        self._held.pop(request, None)
        return answered

    async def purge(self, now: float, limit: int) -> int:
        return await self._inner.purge(now, limit)

    async def forget(self, is_meant: Callable[[SessionKey], bool], workers: Collection[str]) -> int:
        gone = await self._inner.forget(is_meant, workers)
        for box in map(self._box, workers if self._is_up else ()):
            # What is away lets go of them by itself, as of a reply that nobody fetches.
            with contextlib.suppress(RedisAwayError):
                for request in await self._ask(ScriptCall(("ZRANGE", box.queue, 0, -1))):
                    head = await self._ask(box.head(request))
                    if head and is_meant(requests.session_of(head)):
                        gone += await self._ask(box.withdraw(request))
        return gone
