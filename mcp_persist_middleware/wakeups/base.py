"""Wake-ups from other workers, as a reader sees them."""

import asyncio
import math
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType

from mcp_persist_middleware.model import HighWater
from mcp_persist_middleware.wakeups.local import Signal

ANYTHING = b"*"
"""The topic of whoever follows many streams: something was committed, to whatever stream."""


NOTHING_TOLD: Mapping[bytes, HighWater] = MappingProxyType({})


# So often (seconds) those who have waited for `TOGETHER` or more may look.
_TICK = 0.1
TOGETHER = 1.0


class Subscription:
    """One reader's place among those who are woken for a stream.

    It remembers that it was notified: a reader that looks into the store, finds nothing and then
    waits misses no notification of the time in between. The first `wait` returns at once, so that
    the reader looks for what was committed before it subscribed.
    """

    __slots__ = (
        "_call",
        "_close",
        "_notified",
        "_signal",
        "_told",
        "patience",
        "told",
        "was_notified",
    )

    def __init__(self, patience: float, close: "Callable[[Subscription], None]") -> None:
        self.patience = patience
        """After about this long a reader looks into the store by itself."""
        self._close = close
        self._call: Callable[[HighWater | None], None] | None = None
        self._notified = True
        self._told: HighWater | None = None
        self.told: HighWater | None = None
        """What the notifications for which the last `wait` returned have told, if each told it."""
        self.was_notified = False
        """Whether it returned for any, and not because its time was over."""
        self._signal = Signal()

    def notify(self, told: HighWater | None = None) -> None:
        """Something may have been committed to the stream.

        Args:
            told: all that was committed, as far as whoever notifies knows: events up to this one,
                with which the stream was open. Without it, it may be anything.
        """
        self._told = HighWater.of_both(self._told, told) if self._notified else told
        self._notified = True
        self._signal.notify()
        if self._call is not None:
            self._call(told)

    def on_notify(self, call: Callable[[HighWater | None], None]) -> None:
        """Have something called at each `notify` as well: who waits by this subscription."""
        self._call = call

    async def wait(self, most: float = math.inf, has: HighWater | None = None) -> None:
        """Return when notified since the last `wait` returned, or when patience is over, or `most`
        seconds.

        Args:
            has: who has all up to there is not woken to be told no more than that.
        """
        loop = asyncio.get_running_loop()
        # Readers that came together do not all look together, and those that do ask once.
        until = loop.time() + min(most, self.patience) * random.uniform(0.75, 1.25)  # noqa: S311
        if TOGETHER <= self.patience <= most:
            until = math.ceil(until / _TICK) * _TICK
        while not self._is_news(has):
            self._notified, self._told = False, None
            if (left := until - loop.time()) <= 0:
                break
            await self._signal.wait(left)
        self.was_notified, self._notified = self._notified, False
        self.told, self._told = self._told, None

    def _is_news(self, has: HighWater | None) -> bool:
        """Whether a notification waits, and tells more than is there."""
        is_known = has is not None and self._told is not None and has.covers(self._told)
        return self._notified and not is_known

    def close(self) -> None:
        """Be woken no more. May be called twice."""
        self._close(self)


class Subscriptions:
    """Who waits for which topic on one event loop."""

    def __init__(self) -> None:
        self._waiting: dict[bytes, list[Subscription]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[bytes]:
        """The topics that anybody waits for."""
        return iter(self._waiting)

    def add(self, topic: bytes, subscription: Subscription) -> bool:
        """Whether it is the first for its topic."""
        mine = self._waiting.setdefault(topic, [])
        mine.append(subscription)
        return len(mine) == 1

    def discard(self, topic: bytes, subscription: Subscription) -> bool:
        """Whether nobody is left who waits for its topic."""
        mine = self._waiting.get(topic, [])
        if subscription not in mine:
            return False
        mine.remove(subscription)
        if not mine:
            del self._waiting[topic]
        return not mine

    def notify(
        self, topics: Iterable[bytes], told: Mapping[bytes, HighWater] = NOTHING_TOLD
    ) -> None:
        """Wake whoever waits for one of them, and tell what is known of it."""
        for topic in topics:
            for subscription in self._waiting.get(topic, ()):
                subscription.notify(told.get(topic))

    def clear(self) -> None:
        """Nobody waits."""
        self._waiting.clear()


class Wakeups(ABC):
    """Tells the readers of one event loop that another worker may have committed something, and
    those of the others what was committed here.

    A wake-up may be for nothing and may be lost, with what it tells beside: what counts is what
    the store says when the reader looks, and nobody waits for more than that.
    """

    @property
    def is_connected(self) -> bool | None:
        """Whether the connection is there that wakes readers; None where there is none to be."""
        return None

    @abstractmethod
    def subscribe(self, stream: bytes) -> Subscription:
        """Be notified for a stream until the subscription is closed. Without subscriptions
        nothing runs and nothing is asked. Who knows nothing of `ANYTHING` wakes nobody for it."""

    def publish(
        self, topics: Iterable[bytes], told: Mapping[bytes, HighWater] = NOTHING_TOLD
    ) -> None:
        """Something was committed to these topics: who waits for one, here or elsewhere, is to be
        woken soon. Called after the commit; waits for nothing, and may be lost like any wake-up.
        Of a stream to which events were added, and nothing else was done, it may be told how far
        it is now (`Subscription.notify`): a reader that has those already asks for nothing.

        A transport that sees by itself what is committed does nothing here. One whose message may
        travel with the write (in the function that Redis runs) has a `statement` for that as well.
        In PostgreSQL it may not: a NOTIFY in a transaction makes commits wait for each other.
        """
        del topics, told

    @abstractmethod
    async def aclose(self) -> None:
        """End what runs. May be called at any time, twice too."""


class Polling(Wakeups):
    """For a store that cannot tell: every reader looks by itself, this often (seconds)."""

    def __init__(self, interval: float) -> None:
        self._interval = interval

    def subscribe(self, stream: bytes) -> Subscription:  # noqa: ARG002
        return Subscription(self._interval, _nothing)

    async def aclose(self) -> None:
        """Nothing runs."""


def _nothing(_: Subscription) -> None:
    """Nothing was opened."""
