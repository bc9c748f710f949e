"""Wake-ups through Redis pub/sub: a channel for each topic that somebody here waits for, on one
connection that is made anew when it breaks. Who waits for more than a moment is woken by the store
below as well, and its patience is the readers': a Redis that is away, or loses a message,
costs time and nothing else. What a message tells beside is kept for whoever waits (`messages`).
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from redis.exceptions import RedisClusterException, RedisError

from mcp_persist_middleware.model import HighWater
from mcp_persist_middleware.supervision import Supervisor, begin_task, end
from mcp_persist_middleware.wakeups.base import NOTHING_TOLD, Subscription, Subscriptions, Wakeups
from mcp_persist_middleware.wakeups.local import Signal
from mcp_persist_middleware.wakeups.messages import TopicMessages

logger = logging.getLogger(__name__)

_IDLE, _AFTER_FAILURE, _CLOSE = 5.0, 0.25, 1.0
# Most who wait for an answer have it sooner (seconds), and the store below need not know of them;
# until then they have this patience, if they have not set their own.
_BELOW, _PATIENCE = 0.1, 5.0
Command = tuple[str, str, bytes]


class RedisWakeups(Wakeups):
    """Notifies the readers of one event loop.

    Args:
        inner: the wake-ups of the SQL log below.
        connect: makes a client for one connection of its own.
        channel: the channel of a topic.
        content: what a message tells that came for a topic, if it is one of ours.
        high_water: how far a stream is of which that is told.
        send: sends a command soon after.
    """

    def __init__(
        self,
        inner: Wakeups,
        connect: Callable[[], Any],
        channel: Callable[[bytes], str],
        content: Callable[[bytes, bytes], bytes],
        high_water: Callable[[bytes], HighWater | None],
        send: Callable[[Command], None],
    ) -> None:
        self._inner = inner
        self._connect = connect
        self._channel = channel
        self._content = content
        self._high_water = high_water
        self._send = send
        self.heard = TopicMessages()
        self._subscriptions = Subscriptions()
        self._below: dict[Subscription, Subscription | asyncio.TimerHandle] = {}
        self._wanted: dict[bytes, bytes] = {}
        self._changes: set[bytes] = set()
        """Channels that the server has not been told of since they became wanted, or unwanted."""
        self._changed = Signal()
        self._tasks = Supervisor()
        self._is_listening = False
        self._closed = False
        self._failing = False

    def open(self) -> None:
        """Subscribers are connected from now on."""
        self._closed, self._tasks = False, Supervisor(asyncio.current_task())

    def subscribe(self, stream: bytes) -> Subscription:
        subscription = Subscription(_PATIENCE, lambda one: self._unsubscribe(stream, one))
        later = asyncio.get_running_loop().call_later
        self._below[subscription] = later(_BELOW, self._subscribe_below, stream, subscription)
        self._subscriptions.add(stream, subscription)
        channel = self._channel(stream).encode()
        self._wanted[channel] = stream
        self._changes.add(channel)
        if not (self._is_listening or self._closed):
            self._is_listening = True
            self._tasks.keep(self._run, "mcp-persist-redis-wakeups")
        self._changed.notify()
        return subscription

    def _subscribe_below(self, stream: bytes, subscription: Subscription) -> None:
        below = self._below[subscription] = self._inner.subscribe(stream)
        below.on_notify(subscription.notify)
        if subscription.patience == _PATIENCE:
            subscription.patience = below.patience
        # For what was committed until now.
        subscription.notify()

    def _unsubscribe(self, stream: bytes, subscription: Subscription) -> None:
        _end(self._below.pop(subscription, None))
        if self._subscriptions.discard(stream, subscription):
            channel = self._channel(stream).encode()
            self._wanted.pop(channel, None)
            self._changes.add(channel)
            self.heard.forget(stream)
            self._changed.notify()

    @property
    def topics(self) -> Iterable[bytes]:
        """Those that anybody waits for here."""
        return self._wanted.values()

    @property
    def is_connected(self) -> bool | None:
        return self._inner.is_connected is not False and not self._failing

    def publish(
        self, topics: Iterable[bytes], told: Mapping[bytes, HighWater] = NOTHING_TOLD
    ) -> None:
        del told
        for topic in topics:
            self._send(self.statement(topic))

    def statement(self, topic: bytes) -> Command:
        """The command that publishes for one topic, for whoever sends it with others."""
        return "PUBLISH", self._channel(topic), b""

    def notify(self, topic: bytes) -> None:
        """Wake whoever waits here for a topic."""
        self._subscriptions.notify([topic])

    def _heard(self, topic: bytes, message: bytes) -> None:
        """Somebody publishes for a topic."""
        content = self._content(topic, message) if message else b""
        if content:
            self.heard.add(topic, content)
        mark = self._high_water(content)
        self._subscriptions.notify([topic], {topic: mark} if mark is not None else NOTHING_TOLD)

    async def aclose(self) -> None:
        self._closed = True
        await self._tasks.aclose()
        self._is_listening = False
        for below in self._below.values():
            _end(below)
        self._below.clear()
        self._subscriptions.clear()
        self._wanted.clear()
        self._changes.clear()
        self.heard.clear()

    async def _run(self) -> None:
        """Until nobody has waited for a while."""
        while self._wanted:
            try:
                await self._listen()
            except (RedisError, RedisClusterException, OSError, TimeoutError) as error:
                if not self._failing:
                    logger.warning(
                        "MPM-WAKE-02: No wake-ups from Redis for now: %s", type(error).__name__
                    )
                self._failing = True
                await asyncio.sleep(_AFTER_FAILURE)
        self._is_listening = False

    async def _listen(self) -> None:
        client = self._connect()
        pubsub = client.pubsub()
        following: asyncio.Task[None] | None = None
        try:
            # Redis has no connection to listen on without a channel.
            heard, self._changes = set(self._wanted), set()
            if not heard:
                return
            await pubsub.subscribe(*heard)
            following = begin_task(self._follow(pubsub, heard), "mcp-persist-redis-subscribe")
            await self._hear(pubsub, following)
        finally:
            self.heard.clear()
            await end(following)
            with contextlib.suppress(RedisError, OSError, TimeoutError):
                async with asyncio.timeout(_CLOSE):
                    await pubsub.aclose()
                    await client.aclose()

    async def _hear(self, pubsub: Any, following: asyncio.Task[None]) -> None:
        silent = 0
        while not following.done():
            message = await pubsub.get_message(timeout=_IDLE)
            if message is None:
                silent += 1
                if not self._wanted:
                    return
                if silent > 1:
                    raise TimeoutError
                await pubsub.ping()
                continue
            silent = 0
            self._failing = False
            match message["type"], self._wanted.get(message["channel"]):
                case "message", bytes(topic):
                    self._heard(topic, message["data"])
                # What was published before the subscription held is looked for as well.
                case "subscribe", bytes(topic):
                    self.notify(topic)
        await following

    async def _follow(self, pubsub: Any, heard: set[bytes]) -> None:
        """Keep the server's list of channels as it is wanted here; a step costs what has changed,
        however many wait."""
        while True:
            changes, self._changes = self._changes, set()
            more = {channel for channel in changes if channel in self._wanted} - heard
            fewer = {channel for channel in changes if channel not in self._wanted} & heard
            if not self._wanted:
                # They stay, or the connection would have nothing to listen to.
                self._changes |= fewer
                fewer = set()
            heard |= more
            heard -= fewer
            if more:
                await pubsub.subscribe(*more)
            if fewer:
                await pubsub.unsubscribe(*fewer)
            if not self._wanted or not self._changes:
                await self._changed.wait(_IDLE)


def _end(below: Subscription | asyncio.TimerHandle | None) -> None:
    match below:
        case Subscription():
            below.close()
        case asyncio.TimerHandle():
            below.cancel()
