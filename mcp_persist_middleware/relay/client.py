"""The asking side of a relay: a request to the worker that holds the session, and its reply."""

import asyncio
import contextlib
import enum
import logging
import math
import time
from collections.abc import Awaitable
from functools import partial

from mcp_persist_middleware import asgi, telemetry
from mcp_persist_middleware.errors import StoreError
from mcp_persist_middleware.log.membership.peers import Peers
from mcp_persist_middleware.log.parts import Inbox
from mcp_persist_middleware.model import (
    Certainty,
    EnqueueResult,
    RelayRequest,
    RelayRequestId,
    RelayState,
    RelayStatus,
    SessionRecord,
    surely,
)
from mcp_persist_middleware.protocol.event_id import new_stream_id
from mcp_persist_middleware.quota import Quota
from mcp_persist_middleware.relay import sealing
from mcp_persist_middleware.relay.envelope import (
    NotExecuted,
    Reply,
    RequestEnvelope,
    away,
    has_cookie,
    unpack_reply,
)
from mcp_persist_middleware.wakeups.base import Subscription, Wakeups

logger = logging.getLogger(__name__)

# Longer than a lease by this: by then a worker that has not claimed a relayed request is known to
# be dead, or too busy.
_AFTER_LEASE = 2.0
_MOST_WAITING = 1000
# Of those that are under way from here to one worker, one session and one principal have a part.
_OF_ONE_PRINCIPAL, _OF_ONE_SESSION = 256, 128
_LOOK_SECONDS = 1.0
# So long a relayed request is waited for of which it cannot be known whether it was claimed.
_DOUBT_SECONDS = 5.0
_AFTER_FAILURE = 0.25
_READ_AT_ONCE = 64
# The largest requests of so many owners are held at once.
_MOST_LARGE = 4
_KEYS = 256


class RelayFailure(enum.Enum):
    """Why there is no reply."""

    QUEUE_FULL = "queue_full"
    """Too much waits for the session's worker, or runs there for this session or its owner."""
    TIMEOUT = "timeout"
    """Its worker lives, and has not taken it in time; it was not run."""
    UNKNOWN_OUTCOME = "unknown_outcome"
    """Its worker had taken it, or may have, and cannot be heard or cannot answer; nobody runs it
    again."""
    CLIENT_GONE = "client_gone"
    """The client has gone."""
    TOO_LARGE = "too_large"
    """It is larger than what travels between workers."""
    UNSEALED = "unsealed"
    """It belongs to a call at the session's worker, and cannot be sealed for it."""


class RelayClient:
    """Puts requests to other workers. Bounded by the callers, who wait, and by the inbox."""

    def __init__(
        self,
        inbox: Inbox,
        wakeups: Wakeups,
        peers: Peers,
        lease_seconds: float,
        largest: int,
    ) -> None:
        self._patience = lease_seconds + _AFTER_LEASE
        self.rooms = Quota(_MOST_LARGE * largest, largest)
        """For bodies that are larger than most."""
        self._inbox = inbox
        self._wakeups = wakeups
        self._peers = peers
        self._read: list[RelayRequestId] = []
        self._of_sessions = Quota(math.inf, _OF_ONE_SESSION)
        self._of_principals = Quota(math.inf, _OF_ONE_PRINCIPAL)
        self._keys: dict[str, bytes | None] = {}

    async def can_seal(self, worker: str) -> bool:
        """Whether credentials may travel to a worker.

        Raises:
            StoreError: the store does not answer.
        """
        return await self._key(worker) is not None

    async def carry(
        self, record: SessionRecord, envelope: RequestEnvelope, left: Awaitable[None]
    ) -> Reply | RelayFailure:
        """Put a request to the home of a session and wait for what becomes of it, or, if the
        client has `left`, until it runs: that is no cancellation.

        Raises:
            StoreError: the store does not answer. Nothing was run.
        """
        principal = surely(record.principal)
        with (
            self._of_sessions.of((record.home, record.key)) as session,
            self._of_principals.of((record.home, principal)) as person,
        ):
            if not session.take() or (principal and not person.take()):
                return RelayFailure.QUEUE_FULL
            return await self._carry(record, envelope, left)

    async def _carry(
        self, record: SessionRecord, envelope: RequestEnvelope, left: Awaitable[None]
    ) -> Reply | RelayFailure:
        name, key = new_stream_id(self._inbox.now()), await self._key(record.home)
        content = await away(len(envelope.body), partial(_content, envelope, key, name))
        request = RelayRequest(
            id=name,
            key=record.key,
            worker=record.home,
            generation=record.generation,
            deadline=self._inbox.now() + self._patience,
            content=content,
            sealed=key is not None,
        )
        topic = self._wakeups.subscribe(name)
        try:
            # The first look is for what was there before the relayed request: nothing. An answer
            # may come before its posting is known.
            await topic.wait()
            enqueued = await self._put(request)
            if enqueued is not EnqueueResult.ENQUEUED:
                return NotExecuted() if enqueued is EnqueueResult.MOVED else RelayFailure.QUEUE_FULL
            outcome = await self._wait(request, topic, asyncio.ensure_future(left))
        except asyncio.CancelledError:
            with contextlib.suppress(StoreError):
                if not await self._inbox.withdraw(request.name):
                    await self._inbox.remove([request.name])
            raise
        finally:
            topic.close()
        attributes = {"namespace": record.key.namespace, "outcome": _name(outcome)}
        telemetry.relayed.add(1, attributes)
        is_full = isinstance(outcome, NotExecuted) and outcome.queue_full
        return RelayFailure.QUEUE_FULL if is_full else outcome

    async def _put(self, request: RelayRequest) -> EnqueueResult:
        """Post it. A store that fails may have kept it all the same: then it is waited for."""
        try:
            return await self._inbox.put(request, _MOST_WAITING)
        except StoreError:
            if await self._is_posted(request):
                return EnqueueResult.ENQUEUED
            raise

    async def _is_posted(self, request: RelayRequest) -> bool:
        """Whether a relayed request may be on its way in spite of all, or still get there."""
        try:
            if await self._inbox.tombstone(request.name, request.deadline):
                return False
            return not await self._inbox.withdraw(request.name)
        except StoreError:
            return True

    async def _wait(
        self, request: RelayRequest, topic: Subscription, left: asyncio.Future[None]
    ) -> Reply | RelayFailure:
        woken = asyncio.ensure_future(topic.wait())
        due, failing = time.monotonic() + _LOOK_SECONDS, 0.0
        doubtful, left_at = time.monotonic(), math.inf
        try:
            while True:
                waiting: set[asyncio.Future[None]] = {woken, left} if not left.done() else {woken}
                await asyncio.wait(
                    waiting, timeout=_LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED
                )
                if woken.done():
                    woken = asyncio.ensure_future(topic.wait())
                try:
                    status = await self._inbox.look(request.name)
                    if status is not None and status.state is RelayState.REPLIED:
                        return await self._take(request.name, status.reply)
                    now = time.monotonic()
                    if status is None or status.certainty is not Certainty.UNKNOWN:
                        doubtful = now
                    elif now - doubtful > _DOUBT_SECONDS:
                        return (
                            RelayFailure.CLIENT_GONE
                            if left.done()
                            else RelayFailure.UNKNOWN_OUTCOME
                        )
                    left_at = min(left_at, now) if left.done() else math.inf
                    has_left = now - left_at >= asgi.HALF_CLOSED
                    if has_left or now >= due:
                        due = now + _LOOK_SECONDS
                        outcome = await self._judge(request, status, left=has_left)
                        if outcome is not None:
                            return outcome
                    failing = 0.0
                except StoreError as error:
                    # It may be running: nobody may be told that it was not.
                    failing = failing or time.monotonic()
                    if left.done() or time.monotonic() - failing > self._patience:
                        logger.warning("What became of a relayed request is not known: %s", error)
                        return (
                            RelayFailure.CLIENT_GONE
                            if left.done()
                            else RelayFailure.UNKNOWN_OUTCOME
                        )
                    await asyncio.sleep(_AFTER_FAILURE)
        finally:
            woken.cancel()

    async def _judge(
        self, request: RelayRequest, status: RelayStatus | None, *, left: bool
    ) -> Reply | RelayFailure | None:
        """What has become of a relayed request that has no answer; None while that is open."""
        if status is None:
            return RelayFailure.UNKNOWN_OUTCOME
        gone = (
            self._peers.is_suspect(status.worker) and (await self._peers.verify(status.worker)).gone
        )
        late = status.state is RelayState.PENDING and self._inbox.now() > request.deadline
        gone_or_deaf = gone or status.certainty is Certainty.UNDELIVERABLE
        if (gone_or_deaf or late) and await self._inbox.withdraw(request.name):
            return NotExecuted() if gone_or_deaf else RelayFailure.TIMEOUT
        if left and status.state is RelayState.CLAIMED:
            # Its addressee sees from it that nobody waits for the answer.
            await self._inbox.remove([request.name])
            return RelayFailure.CLIENT_GONE
        if not gone and status.certainty is not Certainty.OVERDUE:
            return None
        # Its last word may have come between the two looks; or it is another worker's now.
        last = await self._inbox.look(request.name)
        is_his = last is not None and last.worker == status.worker
        if last is None or (is_his and last.state is RelayState.CLAIMED) or _is_doubtful(last):
            await self._inbox.remove([request.name])
            return RelayFailure.UNKNOWN_OUTCOME
        return None

    async def _take(self, request: RelayRequestId, reply: bytes) -> Reply:
        self._read.append(request)
        found = unpack_reply(reply)
        # A cookie stays in the store no longer than it has to.
        if len(self._read) >= _READ_AT_ONCE or has_cookie(found):
            read, self._read = self._read, []
            # What cannot be removed now is removed when its time is over.
            with contextlib.suppress(StoreError):
                await self._inbox.remove(read)
        return found

    async def _key(self, worker: str) -> bytes | None:
        if not sealing.is_available():
            return None
        if self._keys.get(worker) is None:
            while len(self._keys) >= _KEYS:
                del self._keys[next(iter(self._keys))]
            self._keys[worker] = await self._inbox.public_key(worker)
        return self._keys[worker]


def _content(envelope: RequestEnvelope, key: bytes | None, request: bytes) -> bytes:
    content = envelope.pack()
    return content if key is None else sealing.seal(content, key, request)


def _is_doubtful(status: RelayStatus) -> bool:
    return status.certainty is Certainty.UNKNOWN and status.state is not RelayState.REPLIED


def _name(outcome: Reply | RelayFailure) -> str:
    return outcome.value if isinstance(outcome, RelayFailure) else outcome.name
