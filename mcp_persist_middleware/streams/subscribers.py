"""Several connections to one session's own stream, on any worker: the newest receives, the others
wait silently until it has left.

Whose turn it is stands in the store, as a number that every new connection raises. Who is about to
deliver looks there first, so nothing depends on a wake-up, and an idle connection costs nothing.
"""

import asyncio
import weakref
from collections.abc import Callable

from mcp_persist_middleware import rarely
from mcp_persist_middleware.errors import StoreError
from mcp_persist_middleware.log.membership.peers import Peers
from mcp_persist_middleware.log.parts import Sessions
from mcp_persist_middleware.model import SessionKey, SessionStreamState
from mcp_persist_middleware.supervision import Supervisor, end
from mcp_persist_middleware.wakeups.local import Signal

logger = rarely.logger(__name__)

# How often (seconds) a connection that waits looks whether the one that receives has left.
_LOOK = 1.0
# How often, at least, a store that is away is told that all have left.
_SELDOM = 30.0
# How long what a client has read may be unknown to the store.
_NOTE = 0.5
# So many may wait for one session on one worker; the oldest goes.
_MOST = 16
_ATTEMPTS = 8
_CLOSE_SECONDS = 1.0


class SessionSubscribers:
    """The connections of one worker to the sessions' own streams.

    Args:
        is_down: whether the store is away, and need not be asked.
    """

    def __init__(
        self,
        sessions: Sessions,
        peers: Peers,
        worker: str,
        is_down: Callable[[], bool],
        tasks: Supervisor | None = None,
    ) -> None:
        self._supervisor = tasks or Supervisor()
        self.is_down = is_down
        self.sessions = sessions
        self.peers = peers
        self.worker = worker
        self._all: weakref.WeakValueDictionary[SessionKey, Subscribers] = (
            weakref.WeakValueDictionary()
        )
        self._tasks: set[asyncio.Task[None]] = set()

    def of(self, key: SessionKey) -> "Subscribers":
        """Those of one session. They are forgotten when nobody uses them."""
        found = self._all.get(key)
        if found is None:
            self._all[key] = found = Subscribers(self, key)
        return found

    def spawn(self, turns: "Subscribers", delay: float) -> None:
        """Let the store know soon what became of a turn."""
        task = self._supervisor.spawn(turns.tell(delay), "mcp-persist-turn")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def aclose(self) -> None:
        """Wait a moment for what the store has yet to be told."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_CLOSE_SECONDS)
        await end(*self._tasks)


class Subscribers:
    """The connections of this worker to one session's stream, the newest last."""

    def __init__(self, subscribers: SessionSubscribers, key: SessionKey) -> None:
        self.queue: list[Subscriber] = []
        self.changed = Signal()
        self.opening = asyncio.Lock()
        """Of the connections that come together one opens the application's stream."""
        self.going_on = asyncio.Lock()
        """Of the exchanges that the application has answered one goes on with the session's."""
        self.stream, self.sequence = b"", 0
        """The last event that was written to a client, as far as this worker knows."""
        self._subscribers = subscribers
        self._key = key
        self._number: int | None = None
        """The turn that was ours last; None when the store cannot tell: then all are here."""
        self._is_untold = False
        self._telling = asyncio.Lock()

    async def look(self) -> SessionStreamState | None:
        """What the store knows of the session's stream.

        Raises:
            StoreError: it does not answer.
        """
        found = await self._subscribers.sessions.stream_state(self._key)
        if found is not None and found.stream:
            is_further = found.stream == self.stream and found.sequence > self.sequence
            if is_further or not (self._is_untold or found.stream == self.stream):
                self.stream, self.sequence = found.stream, found.sequence
        return found

    async def take(self) -> "Subscriber":
        """Become the newest connection of all."""
        subscriber = Subscriber(self)
        self.queue.append(subscriber)
        for oldest in self.queue[:-_MOST]:
            oldest.end()
        self.changed.notify()
        try:
            self._number = None
            for _ in range(0 if self._subscribers.is_down() else _ATTEMPTS):
                if await self._claim(await self.look()):
                    break
        except StoreError as error:
            logger.warning(
                "MPM-SESSION-14: Connections to a session's stream cannot take turns now: %s", error
            )
        except BaseException:
            subscriber.leave()
            raise
        return subscriber

    async def _claim(self, found: SessionStreamState | None) -> bool:
        if found is None:
            self._number = None
            return True
        subscribers = self._subscribers
        if await subscribers.sessions.activate(self._key, found.turn, subscribers.worker):
            self._number = found.turn + 1
            return True
        return False

    async def is_held(self) -> bool:
        """Whether this worker's newest connection is the newest of all."""
        if self._number is None or self._subscribers.is_down():
            return True
        try:
            found = await self.look()
        except StoreError:
            return True
        return found is None or found.turn == self._number

    async def regain(self) -> bool:
        """The same, also because the one that was newer has left."""
        try:
            found = await self.look()
            if self._number is None or found is None or found.turn == self._number:
                return True
            holder = found.worker
            if holder not in ("", self._subscribers.worker) and not (
                self._subscribers.peers.is_suspect(holder)
                and (await self._subscribers.peers.verify(holder)).gone
            ):
                return False
            return await self._claim(found)
        except StoreError:
            return False

    def read_in(self, stream: bytes) -> int:
        """How far in this stream a client is known to have read."""
        return self.sequence if self.stream == stream else 0

    def note(self, stream: bytes, sequence: int) -> None:
        """So far a client has read."""
        self.stream, self.sequence = stream, sequence
        if not self._is_untold:
            self._is_untold = True
            self._subscribers.spawn(self, _NOTE)

    def left(self) -> None:
        """A connection has left; the one before it goes on."""
        self.changed.notify()
        if not self.queue:
            self._subscribers.spawn(self, 0.0)

    async def tell(self, delay: float) -> None:
        """Write down how far a client has read, and that all have left if they have."""
        await asyncio.sleep(delay)
        # Of two that are on their way together the older one may come last.
        async with self._telling:
            self._is_untold = False
            # Until the store knows that all have left, nobody elsewhere has their turn. One that is
            # away for long is asked seldom: there may be many sessions.
            pause = _LOOK
            while not (await self._is_told() or self.queue):
                await self.changed.wait(pause)
                pause = min(2 * pause, _SELDOM)

    async def _is_told(self) -> bool:
        if self._number is not None:
            worker = self._subscribers.worker if self.queue else ""
            try:
                await self._subscribers.sessions.checkpoint(
                    self._key, self._number, worker, self.stream, self.sequence
                )
            except StoreError:
                return False
        return True


class Subscriber:
    """The place of one connection."""

    def __init__(self, turns: Subscribers) -> None:
        self.is_over = False
        """Too many wait: this connection ends."""
        self.on_over: Callable[[], None] = self.wake
        """Called then."""
        self._turns = turns

    def end(self) -> None:
        """Let this connection end, now and not with the next event."""
        if not self.is_over:
            self.is_over = True
            self.on_over()

    @property
    def _is_newest(self) -> bool:
        return self._turns.queue[-1] is self

    async def receives(self) -> bool:
        """Whether this connection may deliver."""
        return self._is_newest and await self._turns.is_held() and self._is_newest

    async def regain(self) -> bool:
        """Wait a moment for it to be this connection's turn again."""
        if self._is_newest and await self._turns.regain():
            return True
        await self._turns.changed.wait(_LOOK)
        return False

    def wake(self) -> None:
        """Let whoever waits look again."""
        self._turns.changed.notify()

    def read_in(self, stream: bytes) -> int:
        """How far in this stream a client is known to have read."""
        return self._turns.read_in(stream)

    def note(self, stream: bytes, sequence: int) -> None:
        """So far this connection's client has read."""
        self._turns.note(stream, sequence)

    def leave(self) -> None:
        """The connection is gone."""
        self._turns.queue.remove(self)
        self._turns.left()
