"""The sender's side of a relay: a letter to the worker that holds the session, and its reply."""

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
from mcp_persist_middleware.log.liveness import Liveness
from mcp_persist_middleware.log.parts import Inbox
from mcp_persist_middleware.model import (
    Letter,
    LetterName,
    LetterState,
    LetterStatus,
    Posted,
    SessionRecord,
    Standing,
    surely,
)
from mcp_persist_middleware.protocol.event_id import new_stream_id
from mcp_persist_middleware.quota import Quota
from mcp_persist_middleware.sessions import parcel as parcels
from mcp_persist_middleware.sessions import sealing
from mcp_persist_middleware.sessions.parcel import NotRun, Parcel, Reply
from mcp_persist_middleware.signals.base import Subscription, Wakeups

logger = logging.getLogger(__name__)

# Longer than a lease by this: by then a worker that has not claimed a letter is known to be dead,
# or too busy.
_AFTER_LEASE = 2.0
_MOST_WAITING = 1000
# Of those that are under way from here to one worker, one session and one principal have a part.
_OF_ONE_PRINCIPAL, _OF_ONE_SESSION = 256, 128
_LOOK_SECONDS = 1.0
# So long a letter is waited for of which it cannot be known whether it was claimed.
_DOUBT_SECONDS = 5.0
_AFTER_FAILURE = 0.25
_READ_AT_ONCE = 64
# The largest requests of so many owners are held at once.
_MOST_LARGE = 4
_KEYS = 256


class Undelivered(enum.Enum):
    """Why there is no reply."""

    FULL = "full"
    """Too much waits for the session's worker, or runs there for this session or its owner."""
    LATE = "late"
    """It lives, and has not taken the letter in time; it was not run."""
    LOST = "lost"
    """It had taken the letter, or may have, and cannot be heard or cannot answer; nobody runs it
    again."""
    LEFT = "left"
    """The client has gone."""
    LARGE = "large"
    """It is larger than what travels between workers."""
    UNSEALED = "unsealed"
    """It belongs to a call at the session's worker, and cannot be sealed for it."""


class Courier:
    """Carries requests to other workers. Bounded by the callers, who wait, and by the inbox."""

    def __init__(
        self,
        inbox: Inbox,
        wakeups: Wakeups,
        liveness: Liveness,
        lease_seconds: float,
        largest: int,
    ) -> None:
        self._patience = lease_seconds + _AFTER_LEASE
        self.rooms = Quota(_MOST_LARGE * largest, largest)
        """For bodies that are larger than most."""
        self._inbox = inbox
        self._wakeups = wakeups
        self._liveness = liveness
        self._read: list[LetterName] = []
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
        self, record: SessionRecord, parcel: Parcel, left: Awaitable[None]
    ) -> Reply | Undelivered:
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
                return Undelivered.FULL
            return await self._carry(record, parcel, left)

    async def _carry(
        self, record: SessionRecord, parcel: Parcel, left: Awaitable[None]
    ) -> Reply | Undelivered:
        name, key = new_stream_id(self._inbox.now()), await self._key(record.home)
        content = await parcels.away(len(parcel.body), partial(_content, parcel, key, name))
        letter = Letter(
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
            # The first look is for what was there before the letter: nothing. An answer may come
            # before its posting is known.
            await topic.wait()
            posted = await self._put(letter)
            if posted is not Posted.WAITING:
                return NotRun() if posted is Posted.MOVED else Undelivered.FULL
            outcome = await self._wait(letter, topic, asyncio.ensure_future(left))
        except asyncio.CancelledError:
            with contextlib.suppress(StoreError):
                if not await self._inbox.withdraw(letter.name):
                    await self._inbox.remove([letter.name])
            raise
        finally:
            topic.close()
        attributes = {"namespace": record.key.namespace, "outcome": _name(outcome)}
        telemetry.relayed.add(1, attributes)
        is_full = isinstance(outcome, NotRun) and outcome.full
        return Undelivered.FULL if is_full else outcome

    async def _put(self, letter: Letter) -> Posted:
        """Post it. A store that fails may have kept it all the same: then it is waited for."""
        try:
            return await self._inbox.put(letter, _MOST_WAITING)
        except StoreError:
            if await self._is_posted(letter):
                return Posted.WAITING
            raise

    async def _is_posted(self, letter: Letter) -> bool:
        """Whether a letter may be on its way in spite of all, or still get there."""
        try:
            if await self._inbox.bar(letter.name, letter.deadline):
                return False
            return not await self._inbox.withdraw(letter.name)
        except StoreError:
            return True

    async def _wait(
        self, letter: Letter, topic: Subscription, left: asyncio.Future[None]
    ) -> Reply | Undelivered:
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
                    status = await self._inbox.look(letter.name)
                    if status is not None and status.state is LetterState.ANSWERED:
                        return await self._take(letter.name, status.reply)
                    now = time.monotonic()
                    if status is None or status.standing is not Standing.DOUBTFUL:
                        doubtful = now
                    elif now - doubtful > _DOUBT_SECONDS:
                        return Undelivered.LEFT if left.done() else Undelivered.LOST
                    left_at = min(left_at, now) if left.done() else math.inf
                    has_left = now - left_at >= asgi.HALF_CLOSED
                    if has_left or now >= due:
                        due = now + _LOOK_SECONDS
                        outcome = await self._judge(letter, status, left=has_left)
                        if outcome is not None:
                            return outcome
                    failing = 0.0
                except StoreError as error:
                    # It may be running: nobody may be told that it was not.
                    failing = failing or time.monotonic()
                    if left.done() or time.monotonic() - failing > self._patience:
                        logger.warning("What became of a letter is not known: %s", error)
                        return Undelivered.LEFT if left.done() else Undelivered.LOST
                    await asyncio.sleep(_AFTER_FAILURE)
        finally:
            woken.cancel()

    async def _judge(
        self, letter: Letter, status: LetterStatus | None, *, left: bool
    ) -> Reply | Undelivered | None:
        """What has become of a letter that has no answer; None while that is open."""
        if status is None:
            return Undelivered.LOST
        gone = (
            self._liveness.is_in_doubt(status.worker)
            and (await self._liveness.ask(status.worker)).gone
        )
        late = status.state is LetterState.WAITING and self._inbox.now() > letter.deadline
        gone_or_deaf = gone or status.standing is Standing.STRANDED
        if (gone_or_deaf or late) and await self._inbox.withdraw(letter.name):
            return NotRun() if gone_or_deaf else Undelivered.LATE
        if left and status.state is LetterState.CLAIMED:
            # Its addressee sees from it that nobody waits for the answer.
            await self._inbox.remove([letter.name])
            return Undelivered.LEFT
        if not gone and status.standing is not Standing.OVERDUE:
            return None
        # Its last word may have come between the two looks; or it is another worker's now.
        last = await self._inbox.look(letter.name)
        is_his = last is not None and last.worker == status.worker
        if last is None or (is_his and last.state is LetterState.CLAIMED) or _is_doubtful(last):
            await self._inbox.remove([letter.name])
            return Undelivered.LOST
        return None

    async def _take(self, letter: LetterName, reply: bytes) -> Reply:
        self._read.append(letter)
        found = parcels.unpack_reply(reply)
        # A cookie stays in the store no longer than it has to.
        if len(self._read) >= _READ_AT_ONCE or parcels.has_cookie(found):
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


def _content(parcel: Parcel, key: bytes | None, letter: bytes) -> bytes:
    content = parcel.pack()
    return content if key is None else sealing.seal(content, key, letter)


def _is_doubtful(status: LetterStatus) -> bool:
    return status.standing is Standing.DOUBTFUL and status.state is not LetterState.ANSWERED


def _name(outcome: Reply | Undelivered) -> str:
    return outcome.value if isinstance(outcome, Undelivered) else type(outcome).__name__.lower()
