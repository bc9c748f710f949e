"""The asking side of a relay: a request to the worker that holds the session, and its reply."""

import asyncio
import contextlib
import dataclasses
import math
import time
from functools import partial

from mcp_persist_middleware import rarely, telemetry
from mcp_persist_middleware.errors import StoreError
from mcp_persist_middleware.log.membership.peers import Peers
from mcp_persist_middleware.log.parts import Inbox
from mcp_persist_middleware.model import (
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
from mcp_persist_middleware.recent import Recent
from mcp_persist_middleware.relay import sealing
from mcp_persist_middleware.relay.envelope import (
    NotExecuted,
    Reply,
    RequestEnvelope,
    away,
    has_cookie,
    unpack_reply,
)
from mcp_persist_middleware.relay.outcome import RelayFacts, RelayFailure, Step, is_lost, step_of
from mcp_persist_middleware.relay.watch import Watch
from mcp_persist_middleware.wakeups.base import Subscription, Wakeups

logger = rarely.logger(__name__)

# Longer than a lease by this: by then a worker that has not claimed a request is known to be dead,
# or too busy.
_AFTER_LEASE = 2.0
_MOST_WAITING = 1000
# Of those that are under way from here to one worker, one session and one principal have a part.
_OF_ONE_PRINCIPAL, _OF_ONE_SESSION = 256, 128
_AFTER_FAILURE = 0.25
_READ_AT_ONCE = 64
# The largest requests of so many owners are held at once.
_MOST_LARGE = 4
_KEYS = 256


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
        self._keys: Recent[str, bytes | None] = Recent(_KEYS)

    async def can_seal(self, worker: str) -> bool:
        """Whether credentials may travel to a worker.

        Raises:
            StoreError: the store does not answer.
        """
        return await self._key(worker) is not None

    async def carry(
        self, record: SessionRecord, envelope: RequestEnvelope, left: asyncio.Future[None]
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
        self, record: SessionRecord, envelope: RequestEnvelope, left: asyncio.Future[None]
    ) -> Reply | RelayFailure:
        name, key = new_stream_id(self._inbox.now()), await self._key(record.home)
        content = await away(len(envelope.body), partial(envelope.seal, key, name))
        request = RelayRequest(
            id=name,
            key=record.key,
            worker=record.home,
            generation=record.generation,
            deadline=self._inbox.now() + self._patience,
            content=content,
            sealed=key is not None,
        )
        topic, began = self._wakeups.subscribe(name), time.monotonic()
        try:
            # The first look is for what was there before the request: nothing. An answer may come
            # before it is known to be enqueued.
            await topic.wait()
            enqueued = await self._put(request)
            if enqueued is not EnqueueResult.ENQUEUED:
                return NotExecuted() if enqueued is EnqueueResult.MOVED else RelayFailure.QUEUE_FULL
            outcome = await self._wait(request, topic, left)
        except asyncio.CancelledError:
            with contextlib.suppress(StoreError):
                if not await self._inbox.withdraw(request.name):
                    await self._inbox.remove([request.name])
            raise
        finally:
            topic.close()
        telemetry.relay_seconds.record(time.monotonic() - began)
        said = outcome.value if isinstance(outcome, RelayFailure) else outcome.name
        telemetry.relayed.add(1, {"namespace": record.key.namespace, "outcome": said})
        is_full = isinstance(outcome, NotExecuted) and outcome.queue_full
        return RelayFailure.QUEUE_FULL if is_full else outcome

    async def _put(self, request: RelayRequest) -> EnqueueResult:
        """Enqueue it. A store that fails may have kept it all the same: then it is waited for."""
        try:
            return await self._inbox.put(request, _MOST_WAITING)
        except StoreError:
            if await self._is_enqueued(request):
                return EnqueueResult.ENQUEUED
            raise

    async def _is_enqueued(self, request: RelayRequest) -> bool:
        """Whether a request may be on its way in spite of all, or still get there."""
        try:
            if await self._inbox.tombstone(request.name, request.deadline):
                return False
            return not await self._inbox.withdraw(request.name)
        except StoreError:
            return True

    # Until it is known what became of it.

    async def _wait(
        self, request: RelayRequest, topic: Subscription, left: asyncio.Future[None]
    ) -> Reply | RelayFailure:
        watch = Watch(topic, left)
        try:
            while True:
                await watch.next()
                try:
                    outcome = await self._look(request, watch)
                except StoreError as error:
                    # It may be running: nobody may be told that it was not.
                    if left.done() or watch.has_failed_for(self._patience):
                        logger.warning(
                            "MPM-RELAY-02: What became of a relayed request is not known: %s", error
                        )
                        return watch.given_up
                    await asyncio.sleep(_AFTER_FAILURE)
                else:
                    if outcome is not None:
                        return outcome
                    watch.failed_at = math.inf
        finally:
            watch.close()

    async def _look(self, request: RelayRequest, watch: Watch) -> Reply | RelayFailure | None:
        """What has become of it; None while that is open."""
        status = await self._inbox.look(request.name)
        if status is not None and status.state is RelayState.REPLIED:
            return await self._take(request.name, status.reply)
        watch.note(status)
        if not watch.is_due:
            return None
        if status is None:
            return RelayFailure.UNKNOWN_OUTCOME
        seen = RelayFacts(
            status.state,
            status.certainty,
            home_is_gone=await self._is_gone(status.worker),
            is_late=self._inbox.now() > request.deadline,
            has_left=watch.has_left,
            was_in_doubt=watch.is_suspect,
            has_moved=status.worker != request.worker,
        )
        step = step_of(seen)
        if step in (Step.RECALL, Step.EXPIRE):
            if await self._inbox.withdraw(request.name):
                return NotExecuted() if step is Step.RECALL else RelayFailure.TIMEOUT
            step = step_of(dataclasses.replace(seen, is_fast=True))
        return await self._end(step, request.name, status, watch)

    async def _end(
        self, step: Step, name: RelayRequestId, status: RelayStatus, watch: Watch
    ) -> RelayFailure | None:
        match step:
            case Step.GIVE_UP:
                return watch.given_up
            case Step.LEAVE:
                # Its addressee sees from it that nobody waits for the answer.
                await self._inbox.remove([name])
                return RelayFailure.CLIENT_GONE
            case Step.VERIFY if is_lost(status, await self._inbox.look(name)):
                await self._inbox.remove([name])
                return RelayFailure.UNKNOWN_OUTCOME
            case _:
                return None

    async def _is_gone(self, worker: str) -> bool:
        peers = self._peers
        return peers.is_suspect(worker) and (await peers.verify(worker)).gone

    async def _take(self, name: RelayRequestId, reply: bytes) -> Reply:
        self._read.append(name)
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
            self._keys[worker] = await self._inbox.public_key(worker)
        return self._keys[worker]
