"""The addressee's side of a relay: letters for this worker are claimed and run as if their clients
were here."""

import asyncio
import logging
from collections.abc import Sequence

from mcp_persist_middleware.errors import LeaseLostError, SessionElsewhereError, StoreError
from mcp_persist_middleware.log.lease import Lease
from mcp_persist_middleware.log.liveness import Liveness
from mcp_persist_middleware.log.parts import Inbox
from mcp_persist_middleware.model import Letter
from mcp_persist_middleware.sessions import parcel as parcels
from mcp_persist_middleware.sessions import sealing
from mcp_persist_middleware.sessions.parcel import NotRun, Parcel, Reply, Whole
from mcp_persist_middleware.sessions.registry import Registry
from mcp_persist_middleware.settings import Settings
from mcp_persist_middleware.signals.base import Subscription, Wakeups
from mcp_persist_middleware.supervision import Supervisor

logger = logging.getLogger(__name__)

# Letters that were claimed and have no answer yet; the others wait in the inbox.
_MOST_RUNNING = 512
_PAGE = 64
_REPLY_SECONDS = 60.0
# So long a cancellation is held for the calls before it to reach the application.
_HOLD_SECONDS = 0.5
_AFTER_FAILURE, _ATTEMPTS = 0.5, 20
_PURGED = 500
_CANCELLED = b"notifications/cancelled"


class Desk:
    """Serves the inbox of one worker. While no other worker is there it sleeps."""

    def __init__(
        self,
        inbox: Inbox,
        wakeups: Wakeups,
        liveness: Liveness,
        lease: Lease,
        registry: Registry,
        settings: Settings,
        worker: str,
        tasks: Supervisor | None = None,
    ) -> None:
        self._tasks = tasks or Supervisor()
        self._inbox = inbox
        self._wakeups = wakeups
        self._liveness = liveness
        self._lease = lease
        self._registry = registry
        self._settings = settings
        self._worker = worker
        self._seal = sealing.Seal() if sealing.is_available() else None
        self._running: dict[bytes, tuple[Letter, asyncio.Task[None]]] = {}
        self._woken = asyncio.Event()
        self._ended = asyncio.Event()
        self._in_doubt = False

    async def open(self) -> None:
        """Let the others know this worker's key. Those who do not know it do not relay
        credentials to it."""
        if self._seal is not None:
            try:
                await self._inbox.publish(self._worker, self._seal.public)
            except StoreError as error:
                logger.warning("Credentials cannot be relayed to this worker: %s", error)

    def wake(self) -> None:
        """Another worker has come or gone."""
        self._woken.set()

    async def run(self) -> None:
        """Run until cancelled."""
        topic: Subscription | None = None
        try:
            while True:
                self._woken.clear()
                if not self._liveness.has_company(self._worker):
                    if topic is not None:
                        topic.close()
                        topic = None
                    await self._woken.wait()
                    continue
                if topic is None:
                    # The row may have been made anew meanwhile.
                    await self.open()
                    topic = self._wakeups.subscribe(self._inbox.topic(self._worker))
                    topic.patience = min(topic.patience, self._inbox.look_seconds)
                await topic.wait()
                await self._empty(topic)
        finally:
            if topic is not None:
                topic.close()

    async def purge(self) -> None:
        """Remove what nobody waits for any more.

        Raises:
            StoreError: the store does not answer.
        """
        while await self._inbox.purge(self._inbox.now(), _PURGED) == _PURGED:
            pass

    async def _empty(self, topic: Subscription) -> None:
        """Claim what waits, as long as there is room."""
        try:
            await self._settle_doubt()
            # Work is taken from the store only by a worker that was seen alive there.
            while self._lease.is_young:
                room = _MOST_RUNNING - len(self._running)
                if not room:
                    self._ended.clear()
                    await self._ended.wait()
                    continue
                letters = await self._claim(min(room, _PAGE))
                for letter in letters:
                    self._start(letter)
                if len(letters) < min(room, _PAGE):
                    return
        except StoreError as error:
            logger.warning("Letters of other workers wait: %s", error)
            await asyncio.sleep(_AFTER_FAILURE)
            topic.notify()

    async def _claim(self, limit: int) -> list[Letter]:
        now = self._inbox.now()
        self._in_doubt = True
        deadline = now + self._settings.detach_seconds + _REPLY_SECONDS
        letters = await self._inbox.claim(self._worker, limit, now, deadline)
        self._in_doubt = False
        return letters

    async def _settle_doubt(self) -> None:
        """A claim whose outcome was never heard may have been committed: what nobody runs is
        given back, with the word that it was not run."""
        if self._in_doubt:
            for letter in await self._inbox.claimed(self._worker):
                if letter not in self._running:
                    await self._answer(letter, NotRun())
            self._in_doubt = False

    def _start(self, letter: Letter) -> None:
        before = [task for other, task in self._running.values() if other.key == letter.key]
        task = self._tasks.spawn(self._serve(letter, before), "mcp-persist-relayed")
        self._running[letter.id] = letter, task
        task.add_done_callback(lambda _: self._end(letter.id))

    def _end(self, letter: bytes) -> None:
        del self._running[letter]
        self._ended.set()

    async def _serve(self, letter: Letter, before: Sequence[asyncio.Task[None]]) -> None:
        reply = await self._reply(letter, before)
        for _ in range(_ATTEMPTS):
            try:
                await self._answer(letter.id, reply)
            except StoreError as error:
                logger.warning("The answer to a letter cannot be kept yet: %s", error)
                await asyncio.sleep(_AFTER_FAILURE)
            else:
                return

    async def _reply(self, letter: Letter, before: Sequence[asyncio.Task[None]]) -> Reply:
        held = None if letter.void else self._registry.held(letter.key)
        if held is None:
            return NotRun(forsaken=not letter.void and await self._is_forsaken(letter))
        if held.record.generation != letter.generation or held.site is None:
            return NotRun()
        try:
            parcel = self._read(letter)
        except sealing.UnreadableError:
            # It was addressed to the home before this one. Its sender has it, and seals it anew.
            return NotRun()
        if before and _CANCELLED in parcel.body:
            await asyncio.wait(before, timeout=_HOLD_SECONDS)
        try:
            async with asyncio.timeout(self._settings.detach_seconds):
                return await held.site(parcel)
        except (SessionElsewhereError, LeaseLostError):
            return NotRun()
        except TimeoutError:
            return Whole(504, [(b"content-length", b"0")], b"")
        except Exception:
            logger.exception("The application raised at a relayed request")
            body = b"Internal Server Error"
            return Whole(500, [(b"content-type", b"text/plain; charset=utf-8")], body)

    async def _is_forsaken(self, letter: Letter) -> bool:
        """Whether this worker is still the home of a session that it does not hold: it may have
        been once, when the letter was addressed."""
        try:
            record = await self._registry.find(letter.key)
        except StoreError:
            return False
        home = (self._worker, letter.generation)
        return record is not None and (record.home, record.generation) == home

    def _read(self, letter: Letter) -> Parcel:
        content = letter.content
        if letter.sealed:
            if self._seal is None:
                raise sealing.UnreadableError
            content = self._seal.open(content, letter.id)
        return Parcel.unpack(content)

    async def _answer(self, letter: bytes, reply: Reply) -> None:
        until = self._inbox.now() + _REPLY_SECONDS
        await self._inbox.answer(letter, self._worker, parcels.pack_reply(reply), until)
