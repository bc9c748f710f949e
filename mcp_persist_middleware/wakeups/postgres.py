"""Wake-ups between workers by LISTEN and NOTIFY, on one connection that nothing else uses.

Whoever waits for a topic says so (`want`), at once and again and again; whoever commits to a topic
that is wanted tells, and how far it is now where nothing but events came. So nothing is sent while
nobody reads elsewhere, and never in a transaction that writes: a NOTIFY makes commits wait for each
other.
"""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Mapping,
    Sequence,
)
from typing import Any, NamedTuple

import asyncpg
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from mcp_persist_middleware.errors import StoreError
from mcp_persist_middleware.model import HighWater
from mcp_persist_middleware.recent import Recent
from mcp_persist_middleware.supervision import Supervisor
from mcp_persist_middleware.wakeups import payloads
from mcp_persist_middleware.wakeups.base import NOTHING_TOLD, Subscription, Subscriptions, Wakeups

logger = logging.getLogger(__name__)

_PATIENCE = 1.0
# Where many wait, and nothing happens, they look less often each.
_LOOKS_PER_SECOND = 200
# A want holds for `_HOLD` seconds and is said again every `_RENEW`: two may be lost.
_HOLD, _RENEW = 10.0, 3.0
# Whoever asks for a topic that was committed to so long ago at most is told at once: his want and
# the commit crossed.
_RECENT = 3.0
_MOST_WANTED, _MOST_RECENT = 50_000, 8192
_FIRST_PAUSE, _LAST_PAUSE = 0.1, 5.0
_CLOSE_SECONDS = 1.0
_TROUBLE = (
    OSError,
    TimeoutError,
    SQLAlchemyError,
    StoreError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)


class _Told(NamedTuple):
    """The last commit to a topic."""

    at: float
    told: HighWater | None
    vague_at: float
    """When it was last not known how far the topic was after a commit."""


_NEVER = _Told(-_RECENT, None, -_RECENT)

ListenerConnect = Callable[[], Awaitable[tuple[AsyncConnection, Any]]]


class Notifications(Wakeups):
    """Notifies the readers of one event loop, and tells those on others.

    Args:
        channel: that all workers on the store share.
        connect: makes the connection.
        timeout: how long an answer may take.
    """

    def __init__(self, channel: str, connect: ListenerConnect, timeout: float) -> None:
        self._channel = channel
        self._connect = connect
        self._timeout = timeout
        self._subscriptions = Subscriptions()
        self._wanted: Recent[bytes, float] = Recent(_MOST_WANTED)
        self._recent: Recent[bytes, _Told] = Recent(_MOST_RECENT)
        self._asking: dict[bytes, None] = {}
        self._telling: dict[bytes, HighWater | None] = {}
        self._work = asyncio.Event()
        self._lost = False
        self._failing = False
        self._pid = 0
        self._tasks: Supervisor | None = None

    @property
    def is_connected(self) -> bool:
        return bool(self._pid) and not (self._lost or self._failing)

    async def open(self) -> None:
        """Begin to listen; readers look by themselves until that works."""
        if self._tasks is None:
            self._tasks = Supervisor(asyncio.current_task())
            self._tasks.keep(self._run, "mcp-persist-notifications")

    def subscribe(self, stream: bytes) -> Subscription:
        patience = max(_PATIENCE, len(self._subscriptions) / _LOOKS_PER_SECOND)
        subscription = Subscription(patience, lambda one: self._unsubscribe(stream, one))
        if self._subscriptions.add(stream, subscription):
            self._asking[stream] = None
            self._work.set()
        return subscription

    def _unsubscribe(self, stream: bytes, subscription: Subscription) -> None:
        if self._subscriptions.discard(stream, subscription):
            self._asking.pop(stream, None)

    def publish(
        self, topics: Iterable[bytes], told: Mapping[bytes, HighWater] = NOTHING_TOLD
    ) -> None:
        now = time.monotonic()
        for topic in topics:
            self._subscriptions.notify([topic], told)
            mark, before = told.get(topic), self._recent.get(topic, _NEVER)
            self._recent[topic] = _Told(now, mark, before.vague_at if mark else now)
            if self._wanted.get(topic, 0.0) > now:
                self._tell(topic, told.get(topic))
        if self._telling:
            self._work.set()

    async def aclose(self) -> None:
        tasks, self._tasks = self._tasks, None
        self._subscriptions.clear()
        if tasks is not None:
            await tasks.aclose()

    # What the task does.

    async def _run(self) -> None:
        pause = _FIRST_PAUSE
        while True:
            try:
                async with self._listening() as driver:
                    pause, self._failing = _FIRST_PAUSE, False
                    await self._serve(driver)
            except _TROUBLE as error:
                if not self._failing:
                    silent = isinstance(error, TimeoutError)
                    why = f"no answer in {self._timeout:g} s" if silent else error
                    logger.warning(
                        "MPM-WAKE-01: No wake-ups for now, readers look by themselves: %s", why
                    )
                self._failing = True
            except Exception:
                logger.exception("MPM-WAKE-03: Wake-ups met an unexpected error and begin anew")
            # Nothing that is kept for the sender may be kept for as long as it cannot send.
            self._telling.clear()
            self._wake_all()
            # Workers that lost a server together do not all come back together.
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311
            pause = min(2 * pause, _LAST_PAUSE)

    @contextlib.asynccontextmanager
    async def _listening(self) -> AsyncIterator[Any]:
        async with asyncio.timeout(self._timeout):
            connection, driver = await self._connect()
        try:
            self._lost = False
            driver.add_termination_listener(self._on_lost)
            async with asyncio.timeout(self._timeout):
                self._pid = await driver.fetchval("SELECT pg_backend_pid()")
                await driver.add_listener(self._channel, self._on_payload)
            yield driver
        finally:
            await _drop(connection)

    def _on_lost(self, _: Any) -> None:
        self._lost = True
        self._work.set()

    async def _serve(self, driver: Any) -> None:
        """Send what there is to send, until the connection is lost. What is said again and again
        keeps it alive, and finds out when it is not."""
        self._asking.update(dict.fromkeys(self._subscriptions))
        await self._send(driver, [payloads.HELLO])
        self._wake_all()
        renewed = time.monotonic()
        while not self._lost:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, renewed + _RENEW - time.monotonic())):
                    await self._work.wait()
            self._work.clear()
            if (now := time.monotonic()) >= renewed + _RENEW:
                renewed = now
                self._asking.update(dict.fromkeys(self._subscriptions))
                self._forget(now)
            asking, self._asking = list(self._asking), {}
            telling, self._telling = self._telling, {}
            told = (payloads.named(*each) for each in telling.items())
            wanted = map(payloads.named, asking)
            said = [
                *payloads.written(payloads.TELL, told),
                *payloads.written(payloads.WANT, wanted),
            ]
            if said or now == renewed:
                await self._send(driver, said)
        raise StoreError(url=self._channel, reason="the connection that listens was lost")

    async def _send(self, driver: Any, said: Sequence[str]) -> None:
        async with asyncio.timeout(self._timeout):
            await driver.fetch(
                "SELECT pg_notify($1, payload) FROM unnest($2::text[]) AS p (payload)",
                self._channel,
                said,
            )

    def _forget(self, now: float) -> None:
        while self._wanted and next(iter(self._wanted.values())) <= now:
            self._wanted.popitem(last=False)
        old = now - _RECENT
        while self._recent and next(iter(self._recent.values())).at < old:
            self._recent.popitem(last=False)

    def _wake_all(self) -> None:
        self._subscriptions.notify(self._subscriptions)

    def _on_payload(self, _: Any, pid: int, __: str, payload: str) -> None:
        if pid == self._pid:
            return
        try:
            kind, topics, told = payloads.read(payload)
        except ValueError:
            logger.debug("Somebody else uses the channel %s", self._channel)
            return
        match kind:
            case payloads.TELL:
                self._subscriptions.notify(topics, told)
            case payloads.WANT:
                self._want(topics)
            case payloads.HELLO:
                self._asking.update(dict.fromkeys(self._subscriptions))
                self._work.set()

    def _want(self, topics: Iterable[bytes]) -> None:
        now = time.monotonic()
        for topic in topics:
            self._wanted[topic] = now + _HOLD
            recent, old = self._recent.get(topic, _NEVER), now - _RECENT
            if recent.at > old:
                self._tell(topic, recent.told if recent.vague_at <= old else None)
        if self._telling:
            self._work.set()

    def _tell(self, topic: bytes, told: HighWater | None) -> None:
        """What is told with one message tells of all that it stands for."""
        self._telling[topic] = HighWater.of_both(self._telling.get(topic, told), told)


async def _drop(connection: AsyncConnection) -> None:
    with contextlib.suppress(*_TROUBLE):
        async with asyncio.timeout(_CLOSE_SECONDS):
            await connection.invalidate()
            await connection.close()
