"""What the workers know of each other's listens at one place, and their hints."""

import asyncio
import contextlib
import time
from collections import deque
from typing import Literal, Protocol

from mcp_persist_middleware import rarely
from mcp_persist_middleware.errors import StoreError
from mcp_persist_middleware.log.base import EventLog
from mcp_persist_middleware.log.membership.member import Member
from mcp_persist_middleware.model import Place
from mcp_persist_middleware.protocol.hints import Filter, Hint
from mcp_persist_middleware.recent import Recent
from mcp_persist_middleware.streams.hints.hint_log import HintLog, Note
from mcp_persist_middleware.streams.hints.inner import InnerListen
from mcp_persist_middleware.supervision import Supervisor
from mcp_persist_middleware.wakeups.base import Subscription
from mcp_persist_middleware.wakeups.local import Signal

logger = rarely.logger(__name__)

# What is heard within so long (seconds) is told at once, and each hint once.
_TOGETHER = 0.05
# A worker says again so often what its listens want; one that has not for so long has none.
_SAY_AGAIN, _STALE = 30.0, 90.0
# Two workers may have heard of the same moment so far apart.
_SKEW = 0.5
_HISTORY, _CALLERS, _LINGERING = 256, 1024, 64
_ALONE, _CLOSE_SECONDS = 1.0, 2.0


class ListenReader(Protocol):
    """A listen whose client is here."""

    key: str
    """Whose it is and for what."""
    wanted: Filter
    """What the application has promised it."""
    joined_at: float
    """When that was, in the store."""

    def tell(self, hint: Hint) -> None:
        """A hint that another worker's application gave."""


class Board:
    """One place, as one worker knows it. What it heard is told the others, what they tell reaches
    the listens that were promised it, and a listen that comes back learns what it missed.

    Args:
        missed_seconds: for how long a listen that left may come back.
    """

    def __init__(
        self,
        log: EventLog,
        member: Member,
        tasks: Supervisor,
        place: Place,
        missed_seconds: float,
    ) -> None:
        self._log = log
        self._member = member
        self._tasks = tasks
        self._missed_seconds = missed_seconds
        self._hint_log = HintLog(log, member.name, place)
        self._readers: set[ListenReader] = set()
        self._new: list[ListenReader] = []
        self._lingering: dict[str, InnerListen] = {}
        self.tap: InnerListen | None = None
        """A listen of ours, for those of other workers."""
        self._heard: dict[Hint, float] = {}
        self._notes: list[Note] = []
        self._history: deque[Note] = deque(maxlen=_HISTORY)
        self._calls: Recent[str, Note] = Recent(_CALLERS)
        self._wants: dict[str, Note] = {}
        self._told, self._told_at = Filter(), 0.0
        self._news = Signal()
        self._subscription: Subscription | None = None
        self._looking = asyncio.Lock()
        self._looked_at = 0.0
        self._task: asyncio.Task[None] | None = None

    # What happens here.

    def join(self, reader: ListenReader) -> None:
        """A listen begins here."""
        self._end_lingering(reader.key)
        self._readers.add(reader)
        self._new.append(reader)
        self._wake()

    def leave(self, reader: ListenReader, inner: InnerListen, *, lingers: bool) -> None:
        """Its client has left. Where it may come back the application is still listened to."""
        self._readers.discard(reader)
        if reader in self._new:
            self._new.remove(reader)
        if lingers and self._missed_seconds > 0 and not inner.is_over:
            self._end_lingering(reader.key)
            while len(self._lingering) >= _LINGERING:
                self._end_lingering(next(iter(self._lingering)))
            self._lingering[reader.key] = inner
            self._tasks.spawn(self._linger(reader.key, inner), "mcp-persist-lingering")
        else:
            inner.leave()
        self._note("off", reader.key)
        self._wake()

    def heard(self, hint: Hint) -> None:
        """This worker's application has given a hint."""
        if hint in self._heard or len(self._heard) < _HISTORY:
            self._heard[hint] = self._log.now()
        self._wake()

    # What others want.

    @property
    def is_idle(self) -> bool:
        """Whether nobody listens here."""
        return self._task is None

    async def lacking(self, seconds: float) -> Filter:
        """What listens of other workers want and nobody here listens for; looked up where it is
        not known, at most once in a second, for so long (seconds) at most."""
        if self._task is None and time.monotonic() - self._looked_at > _ALONE:
            with contextlib.suppress(StoreError, TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._look()
        wanted = self._wanted_elsewhere()
        here = self._wanted_here().joined([self.tap.asked] if self.tap is not None else [])
        return Filter() if here.covers(wanted) else wanted

    def tap_with(self, tap: InnerListen | None) -> None:
        """Listen with this one from now on, for those of other workers."""
        before, self.tap = self.tap, tap
        if before is not None:
            before.leave()
        self._wake()

    def _wanted_elsewhere(self) -> Filter:
        others, now = set(self._member.peers.others(self._member.name)), self._log.now()
        self._wants = {
            worker: note
            for worker, note in self._wants.items()
            if worker in others and now - note.at < _STALE
        }
        return Filter().joined(note.wanted for note in self._wants.values())

    def _wanted_here(self) -> Filter:
        lingering = [each.promised or Filter() for each in self._lingering.values()]
        return Filter().joined([*(reader.wanted for reader in self._readers), *lingering])

    # What is done about it.

    def _wake(self) -> None:
        if self._task is None:
            self._task = self._tasks.spawn(self._follow(), "mcp-persist-hints")
        self._news.notify()
        if self._subscription is not None:
            self._subscription.notify()

    def _note(self, kind: Literal["on", "off"], key: str) -> None:
        if self._missed_seconds > 0 and len(self._notes) < _HISTORY:
            self._notes.append(Note(kind, self._member.name, self._log.now(), key=key))

    async def _follow(self) -> None:
        """While anybody listens here."""
        try:
            while True:
                try:
                    await self._look()
                    self._welcome()
                    await self._tell()
                except StoreError as error:
                    logger.warning("MPM-STREAM-10: Hints of other workers are late: %s", error)
                    await asyncio.sleep(_ALONE)
                if self._is_over():
                    break
                await self._wait()
                await asyncio.sleep(_TOGETHER)
        finally:
            if self._subscription is not None:
                self._subscription.close()
                self._subscription = None
            self._task = None

    def _is_over(self) -> bool:
        if self.tap is not None and (self.tap.is_over or not self._wanted_elsewhere()):
            self.tap_with(None)
        here = self._readers or self._lingering or self.tap is not None
        untold = self._heard or self._notes or self._told != self._wanted_here()
        return not (here or untold)

    async def _wait(self) -> None:
        """For something to happen, here or elsewhere. A worker alone asks nobody."""
        if not self._member.peers.has_peers(self._member.name):
            if not (self._heard or self._notes or self._new):
                await self._news.wait(_ALONE)
            return
        if self._subscription is None:
            self._subscription = self._hint_log.wakeups.subscribe(self._hint_log.id)
        await self._subscription.wait()

    async def _look(self) -> None:
        """Read what the others say.

        Raises:
            StoreError: the store does not answer.
        """
        async with self._looking:
            for note in await self._hint_log.read():
                self._take(note)
            self._looked_at = time.monotonic()

    def _take(self, note: Note) -> None:
        is_ours = note.worker == self._member.name
        match note.kind:
            case "want" if not is_ours:
                self._wants[note.worker] = note
            case "hint":
                self._history.append(note)
                for reader in self._readers:
                    if not is_ours and reader not in self._new and reader.wanted.admits(note.hint):
                        reader.tell(note.hint)
            case "on" | "off":
                self._calls[note.key] = note
                if note.kind == "on" and not is_ours:
                    self._end_lingering(note.key)
            case _:
                pass

    def _welcome(self) -> None:
        """Those that are new learn what they missed, each once."""
        name, new, self._new = self._member.name, self._new, []
        for reader in new:
            since, left = reader.joined_at - _SKEW, self._calls.get(reader.key)
            comes_back = left is not None and left.at >= reader.joined_at - self._missed_seconds
            if left is not None and comes_back and self._missed_seconds > 0:
                since = left.at - _SKEW
            # What was heard here a moment ago may not have come back from the store yet.
            heard = [Note("hint", name, at, hint) for hint, at in self._heard.items()]
            for note in (*self._history, *heard):
                is_news = note.worker != name or comes_back
                if is_news and note.at >= since and reader.wanted.admits(note.hint):
                    reader.tell(note.hint)
            self._note("on", reader.key)

    async def _tell(self) -> None:
        """Let the others know what has happened here.

        Raises:
            StoreError: the store does not take it.
        """
        name, now, wanted = self._member.name, self._log.now(), self._wanted_here()
        hints, notes = dict(self._heard), list(self._notes)
        told = [Note("hint", name, at, hint) for hint, at in hints.items()]
        is_due = bool(wanted) and time.monotonic() - self._told_at > _SAY_AGAIN
        if wanted != self._told or is_due:
            told.append(Note("want", name, now, wanted=wanted))
        if not (told or notes):
            return
        await self._hint_log.append([*told, *notes])
        for hint, at in hints.items():
            if self._heard.get(hint) == at:
                del self._heard[hint]
        del self._notes[: len(notes)]
        self._told, self._told_at = wanted, time.monotonic()

    async def _linger(self, key: str, inner: InnerListen) -> None:
        await asyncio.sleep(self._missed_seconds)
        if self._lingering.get(key) is inner:
            self._end_lingering(key)
            self._wake()

    def _end_lingering(self, key: str) -> None:
        inner = self._lingering.pop(key, None)
        if inner is not None:
            inner.leave()

    async def aclose(self) -> None:
        """The worker leaves."""
        self._readers.clear()
        self._new.clear()
        for key in list(self._lingering):
            self._end_lingering(key)
        if self._task is not None:
            self.tap_with(None)
            await asyncio.wait({self._task}, timeout=_CLOSE_SECONDS)
        with contextlib.suppress(StoreError):
            await self._hint_log.end()
