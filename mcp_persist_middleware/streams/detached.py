"""The exchanges that run without a reader, and which of them go when there are too many."""

import asyncio
import itertools
import logging
from collections.abc import Callable, Iterator
from typing import Protocol

from mcp_persist_middleware import telemetry
from mcp_persist_middleware.log.live import LiveStream
from mcp_persist_middleware.supervision import Supervisor

logger = logging.getLogger(__name__)

# Before some go (so many at once) the store is asked who reads them elsewhere, and some others: one
# that is read makes room as well as one that ends.
_MOST_ASKED, _OTHERS_ASKED = 64, 8


class Running(Protocol):
    """An exchange as the others see it."""

    @property
    def stream(self) -> LiveStream | None:
        """The stream that its answer is logged to, once that is open."""

    @property
    def account(self) -> tuple[str, str]:
        """Whose it is when the exchanges of one caller are counted, and in which session."""

    def leave(self) -> None:
        """Tell the application that its client has left."""


class Alone(Protocol):
    """The absence of an exchange's readers."""

    @property
    def exchange(self) -> Running:
        """The exchange."""

    async def reader_ttl(self) -> float:
        """For how long (seconds) somebody is known to read elsewhere; negative when nobody is."""

    def reader_lease(self, left: float) -> None:
        """That long somebody reads elsewhere."""

    def expire(self) -> None:
        """Nobody reads, and that is final."""


_Group = dict[Alone, None]


class Detached:
    """What runs without a reader.

    When there are more than `most`, the newest go of whoever has the most, in the session that has
    the most: who leaves many alone crowds out none but his own. When one has more than `of_one`,
    his go in the same way. One that is read on another worker counts nothing as soon as that is
    known, and is asked about before it goes.

    Args:
        is_down: whether the store is away, and need not be asked.
    """

    def __init__(
        self, most: int, of_one: int, is_down: Callable[[], bool], tasks: Supervisor
    ) -> None:
        self._most = most
        self._of_one = of_one
        self._is_down = is_down
        self._tasks = tasks
        self._accounts: dict[Alone, tuple[str, str]] = {}
        self._groups: dict[str, dict[str, _Group]] = {}
        self._sizes: dict[str, int] = {}
        self._over: dict[str, None] = {}
        """Who has more than one may."""
        self._making_room: asyncio.Task[None] | None = None
        self._has_warned = False

    def __len__(self) -> int:
        return len(self._accounts)

    def __iter__(self) -> Iterator[Running]:
        return (absence.exchange for absence in self._accounts)

    def add(self, absence: Alone) -> None:
        """An exchange has no reader."""
        if absence in self._accounts:
            return
        account = owner, session = absence.exchange.account
        self._accounts[absence] = account
        self._groups.setdefault(owner, {}).setdefault(session, {})[absence] = None
        self._sizes[owner] = self._sizes.get(owner, 0) + 1
        if self._sizes[owner] > self._of_one:
            self._over[owner] = None
        telemetry.detached.add(1)
        if (self._over or len(self) > self._most) and self._making_room is None:
            self._making_room = self._tasks.spawn(self._make_room(), "mcp-persist-crowded")

    def discard(self, absence: Alone) -> None:
        """It has one again, or has ended."""
        if absence not in self._accounts:
            return
        owner, session = self._accounts.pop(absence)
        sessions = self._groups[owner]
        del sessions[session][absence]
        self._sizes[owner] -= 1
        if self._sizes[owner] <= self._of_one:
            self._over.pop(owner, None)
        if not sessions[session]:
            del sessions[session]
        if not sessions:
            del self._groups[owner], self._sizes[owner]
        telemetry.detached.add(-1)

    async def _make_room(self) -> None:
        try:
            while (crowded := self._crowded()) is not None:
                group, excess = crowded
                newest = list(itertools.islice(reversed(group), min(excess, _MOST_ASKED)))
                alone = await self._alone(newest)
                # The choice was right when it was made; more of the same go while it still is.
                for n, absence in enumerate(alone):
                    now = self._crowded()
                    if now is None or (n and now[0] is not group):
                        break
                    self._warn()
                    absence.expire()
                    self.discard(absence)
        finally:
            self._making_room = None

    async def _alone(self, newest: list[Alone]) -> list[Alone]:
        """Those of them that nobody reads anywhere. Some others are asked about in turn."""
        if self._is_down():
            return newest
        others = list(itertools.islice(self._accounts, _OTHERS_ASKED))
        for absence in others:
            self._accounts[absence] = self._accounts.pop(absence)
        asked = list(dict.fromkeys((*newest, *others)))
        reader_ttl = await asyncio.gather(*(absence.reader_ttl() for absence in asked))
        for absence, seconds in zip(asked, reader_ttl, strict=True):
            if absence in self._accounts and seconds > 0:
                absence.reader_lease(seconds)
        # A client may have come back while the store was asked.
        return [absence for absence in newest if absence in self._accounts]

    def _crowded(self) -> tuple[_Group, int] | None:
        """Where there are too many, and how many; None where there are not."""
        if (excess := len(self) - self._most) > 0:
            return self._largest(max(reversed(self._sizes), key=self._sizes.__getitem__)), excess
        owner = next(iter(self._over), None)
        return None if owner is None else (self._largest(owner), self._sizes[owner] - self._of_one)

    def _largest(self, owner: str) -> _Group:
        """The largest group of an owner; of equal ones the newest."""
        return max(reversed(self._groups[owner].values()), key=len)

    def _warn(self) -> None:
        if not self._has_warned:
            self._has_warned = True
            logger.warning(
                "MPM-STREAM-08: More than max_detached=%d requests, or max_detached_of_one=%d of "
                "one caller, run without a client: the newest of whoever has the most are "
                "cancelled",
                self._most,
                self._of_one,
            )
