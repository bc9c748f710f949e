"""The sender's side of relayed requests in Redis; see `inbox`."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Collection
from typing import Any, TypeVar

from mcp_persist_middleware.errors import StoreError
from mcp_persist_middleware.log.parts import Inbox
from mcp_persist_middleware.model import (
    Certainty,
    EnqueueResult,
    RelayRequest,
    RelayRequestId,
    RelayState,
    RelayStatus,
)
from mcp_persist_middleware.protocol import event_id
from mcp_persist_middleware.recent import Recent
from mcp_persist_middleware.stores.redis import requests
from mcp_persist_middleware.stores.redis.client import RedisClient
from mcp_persist_middleware.stores.redis.errors import RedisAwayError
from mcp_persist_middleware.stores.redis.requests import Box
from mcp_persist_middleware.stores.redis.scripts import Keys, ScriptCall
from mcp_persist_middleware.wakeups.messages import TopicMessages

K = TypeVar("K")
V = TypeVar("V")

logger = logging.getLogger(__name__)

# What is larger lies in SQL; Redis is for what is many.
LARGE = 64 * 1024
# So often relayed requests and replies in SQL are looked for while Redis brings the others
# (seconds).
LOOK = 0.5
# A Redis that has lost its memory is given so long to hear from an addressee again (seconds).
_LOST, _AGAIN = 2.5, 0.05
# One that refuses a step is not asked for so long (seconds).
_REFUSED = 60.0
MOST_KNOWN = 4096


class RefusedError(RedisAwayError):
    """Redis says that it has not done it: a step looks at what it needs before it writes."""


class Sender(Inbox):
    """All of an `Inbox` that a sender uses, and what both sides need.

    Args:
        keys: the names of all that is ours.
        later: sends commands to Redis soon after; nothing depends on them.
        heard: replies that came with their wake-ups.
    """

    look_seconds = 1.0

    def __init__(
        self,
        inner: Inbox,
        client: RedisClient,
        keys: Callable[[], Keys],
        later: Callable[[ScriptCall], None],
        heard: TopicMessages,
    ) -> None:
        self._inner = inner
        self._heard = heard
        self._client = client
        self._keys = keys
        self._later = later
        self._refused_until = 0.0
        # Of the sender.
        self._tokens: Recent[str, bytes] = Recent(MOST_KNOWN)
        self._doubts: Recent[bytes, bytes] = Recent(MOST_KNOWN)
        """Those of which it was not heard whether they are enqueued, and the token they go with."""
        self._has_put = False
        self._in_sql: Recent[bytes, None] = Recent(MOST_KNOWN)
        """Relayed requests that were put into SQL, or whose reply was found there."""

    def now(self) -> float:
        return self._inner.now()

    def _milliseconds(self, deadline: float) -> int:
        """How long a key is kept that counts until a time."""
        return max(1, int((deadline - self.now()) * 1000)) + requests.GRACE

    def _box(self, worker: str) -> Box:
        return Box.of(self._keys(), worker, self.topic(worker))

    @property
    def _is_up(self) -> bool:
        says_who = self._client.is_up and self._client.says_who_it_is
        return says_who and time.monotonic() >= self._refused_until

    async def _ask(self, call: ScriptCall, *, certain: bool = False) -> Any:
        """The reply to one call; a `certain` one is sent whoever is cancelled.

        Raises:
            RedisAwayError: there is none. It may have been done or not.
            RefusedError: the server does not do it.
        """
        (reply,) = await self._client.run([call], certain=certain)
        if not isinstance(reply, Exception):
            return reply
        if self._client.is_up:
            if not self._refused_until:
                logger.warning(
                    "MPM-REDIS-09: Redis does not take relayed requests, they lie in SQL: %s", reply
                )
            self._refused_until = time.monotonic() + _REFUSED
        raise RefusedError(str(reply)) from reply

    def _failed(self, reason: str) -> StoreError:
        return StoreError(url=self._client.name, reason=reason)

    async def publish(self, worker: str, public_key: bytes) -> None:
        await self._inner.publish(worker, public_key)

    async def public_key(self, worker: str) -> bytes | None:
        return await self._inner.public_key(worker)

    # The sender.

    async def put(self, request: RelayRequest, most: int) -> EnqueueResult:
        if self._is_up and len(request.content) <= LARGE:
            enqueued = await self._put(request, most)
            if enqueued is not None:
                return enqueued
        enqueued = await self._inner.put(request, most)
        if enqueued is EnqueueResult.ENQUEUED:
            self._in_sql[request.id] = None
            self._later(self._box(request.worker).hint())
        return enqueued

    async def _put(self, request: RelayRequest, most: int) -> EnqueueResult | None:
        """The same in Redis; None when the addressee does not look there."""
        worker, until = request.worker, time.monotonic() + _LOST
        while time.monotonic() < until:
            token = self._tokens.get(worker, b"")
            self._doubts[request.id] = self._doubts.get(request.id) or token
            call = self._box(worker).put(request, token, most, self._milliseconds(request.deadline))
            self._has_put = True
            try:
                code, *rest = await self._ask(call)
            except RefusedError:
                del self._doubts[request.id]
                return None
            except RedisAwayError as error:
                raise self._failed("whether a relayed request was put was not heard") from error
            match code:
                case requests.OTHER:
                    # If an attempt of the driver has put it there before Redis lost its memory, its
                    # addressee remembers it.
                    self._tokens[worker] = rest[0]
                case requests.GONE if token:
                    await asyncio.sleep(_AGAIN)
                case requests.PUT | requests.FULL:
                    del self._doubts[request.id]
                    return EnqueueResult.ENQUEUED if code == requests.PUT else EnqueueResult.FULL
                case requests.TOMBSTONED:
                    raise self._failed("the relayed request was tombstoned")
                case _:
                    del self._doubts[request.id]
                    return None
        raise self._failed("it has lost its memory, and the addressee does not look there")

    async def withdraw(self, request: RelayRequestId) -> bool:
        if self._is_up:
            try:
                if await self._ask(self._box(request.worker).withdraw(request.id)):
                    return True
            except RedisAwayError as error:
                raise self._failed(
                    "whether a relayed request was withdrawn was not heard"
                ) from error
        return await self._inner.withdraw(request)

    async def tombstone(self, request: RelayRequestId, deadline: float, reply: bytes = b"") -> bool:
        doubt = self._doubts.get(request.id)
        if self._is_up or doubt is not None:
            box, left = self._box(request.worker), self._milliseconds(deadline)
            try:
                if not await self._ask(box.tombstone(request.id, doubt or b"", left)):
                    return False
            except RedisAwayError as error:
                raise self._failed("a relayed request cannot be tombstoned") from error
            if self._doubts.pop(request.id, None) is not None:
                return True
        return await self._inner.tombstone(request, deadline, reply)

    async def look(self, request: RelayRequestId) -> RelayStatus | None:
        if told := self._heard.of(request.id):
            return RelayStatus(RelayState.REPLIED, request.worker, told[-1])
        found, is_known = None, not self._has_put
        if self._is_up:
            with contextlib.suppress(RedisAwayError):
                reply = await self._ask(self._box(request.worker).look(request.id))
                found, is_known = self._status(request, reply), True
        if found is not None and (found.reply or self._is_young(request, found)):
            return found
        there = await self._inner.look(request)
        if there is not None and there.state is RelayState.REPLIED:
            self._in_sql[request.id] = None
            # Without a reply it is a tombstone.
            there = there._replace(worker=request.worker) if there.reply else None
        if there is None and not is_known:
            raise self._failed("it is away, and may have the relayed request")
        found = found if found is None or found.state is not RelayState.REPLIED else None
        return there or found

    def _status(self, request: RelayRequestId, reply: list[bytes]) -> RelayStatus | None:
        """What a look has found."""
        match reply:
            case []:
                return None
            case [b"A" | b"L", text]:
                return RelayStatus(RelayState.REPLIED, request.worker, text)
            case [b"C", b"known", deadline] if float(deadline) < self.now():
                return RelayStatus(RelayState.CLAIMED, request.worker, b"", Certainty.OVERDUE)
            case [state, certainty, *_]:
                known = RelayState.PENDING if state == b"W" else RelayState.CLAIMED
                return RelayStatus(known, request.worker, b"", Certainty(certainty.decode()))
            case _:
                raise AssertionError(reply)

    def _is_young(self, request: RelayRequestId, status: RelayStatus) -> bool:
        """Whether it is too early to look for a reply that stands in SQL."""
        is_open = status.state is not RelayState.REPLIED and status.certainty is Certainty.KNOWN
        return is_open and self.now() - event_id.created_at(request.id) < LOOK

    async def remove(self, requests: Collection[RelayRequestId]) -> None:
        if self._is_up:
            keys = [self._box(each.worker).request(each.id) for each in requests]
            with contextlib.suppress(RedisAwayError):
                await self._client.run([ScriptCall(("UNLINK", key)) for key in keys])
        there = [each for each in requests if each.id in self._in_sql]
        if there:
            await self._inner.remove(there)
            for each in there:
                self._in_sql.pop(each.id, None)
