"""The answering side of a relay: requests for this worker's sessions are claimed and run as if
their clients were here."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from starlette.types import Message

from mcp_persist_middleware import rarely
from mcp_persist_middleware.errors import StoreError
from mcp_persist_middleware.log.membership.lease import Lease
from mcp_persist_middleware.log.membership.peers import Peers
from mcp_persist_middleware.log.parts import Inbox
from mcp_persist_middleware.model import RelayRequest, surely
from mcp_persist_middleware.recent import Recent
from mcp_persist_middleware.relay import sealing
from mcp_persist_middleware.relay.envelope import NotExecuted, Reply
from mcp_persist_middleware.relay.execute import Executor, LocalSessions
from mcp_persist_middleware.settings import Settings
from mcp_persist_middleware.supervision import Supervisor
from mcp_persist_middleware.wakeups.base import Subscription, Wakeups

logger = rarely.logger(__name__)

# Requests that were claimed and have no answer yet, which somebody waits for; the others wait in
# the inbox. One session, and whom it belongs to, has a part of them: nobody keeps all others out.
# There may be many behind one address.
_MOST_RUNNING, _OF_ONE_ADDRESS, _OF_ONE_PRINCIPAL, _OF_ONE_SESSION = 1024, 512, 256, 128
_MOST_LOST = 4096
# So many are claimed at once: while they run the next are claimed, and the workers do not take
# turns, each with all that the other waits for.
_PAGE = 8
# What runs is renewed so many times in a lease.
_RENEWALS = 5
_REPLY_SECONDS = 60.0
_AFTER_FAILURE = 0.5
_PURGED = 500


@dataclass(slots=True, eq=False)
class _Run:
    """A request that was claimed here, until its answer is in the store."""

    request: RelayRequest
    owner: str
    is_full: bool = False
    """Too much runs here already for its session, or for its owner."""
    left: asyncio.Event = field(default_factory=asyncio.Event)
    """Its sender waits no more."""
    is_answered: bool = False
    """The application has had it; what is left is to store the answer."""
    task: "asyncio.Task[None]" = field(init=False)

    async def receive(self) -> Message:
        """What the application hears behind the body."""
        await self.left.wait()
        return {"type": "http.disconnect"}


class RelayServer:
    """Serves the inbox of one worker. While no other worker is there it sleeps."""

    def __init__(
        self,
        inbox: Inbox,
        wakeups: Wakeups,
        peers: Peers,
        lease: Lease,
        sessions: LocalSessions,
        settings: Settings,
        worker: str,
        tasks: Supervisor | None = None,
    ) -> None:
        self._tasks = tasks or Supervisor()
        self._inbox = inbox
        self._wakeups = wakeups
        self._peers = peers
        self._lease = lease
        self._settings = settings
        self._worker = worker
        self._seal = sealing.Seal() if sealing.is_available() else None
        self._executor = Executor(sessions, self._seal, worker, settings.detach_seconds)
        self._running: dict[bytes, _Run] = {}
        self._woken = asyncio.Event()
        self._ended = asyncio.Event()
        self._lost: Recent[bytes, None] = Recent(_MOST_LOST)
        """Requests that were run, and whose answer could not be stored."""
        self._doubtful_until = 0.0
        self._has_warned = False
        # A claim is overdue after this time without a word (seconds): by then a worker whose
        # heartbeats do not reach the store has lost its lease.
        self._patience = settings.lease_seconds + settings.store_timeout / 2

    async def open(self) -> None:
        """Let the others know this worker's key. Those who do not know it do not relay
        credentials to it."""
        if self._seal is not None:
            try:
                await self._inbox.publish(self._worker, self._seal.public)
            except StoreError as error:
                logger.warning(
                    "MPM-RELAY-04: Credentials cannot be relayed to this worker: %s", error
                )

    def wake(self) -> None:
        """Another worker has come or gone."""
        self._woken.set()

    async def run(self) -> None:
        """Run until cancelled."""
        topic: Subscription | None = None
        patience = 0.0
        try:
            while True:
                self._woken.clear()
                if not self._peers.has_peers(self._worker):
                    if topic is not None:
                        topic.close()
                        topic = None
                    await self._woken.wait()
                    continue
                if topic is None:
                    self._warn()
                    # The row may have been made anew meanwhile.
                    await self.open()
                    topic = self._wakeups.subscribe(self._inbox.topic(self._worker))
                    topic.patience = min(topic.patience, self._inbox.look_seconds)
                    patience = topic.patience
                # A claim that was not heard is not announced when it is committed after all.
                topic.patience = min(patience, _AFTER_FAILURE) if self._is_in_doubt else patience
                await topic.wait()
                await self._empty(topic)
        finally:
            if topic is not None:
                topic.close()

    def _warn(self) -> None:
        if (
            self._seal is None
            and self._settings.session_routing != "local"
            and not self._has_warned
        ):
            self._has_warned = True
            logger.error(
                "MPM-RELAY-05: Several workers share this store, and requests with credentials "
                "cannot travel "
                "between them, for the package 'cryptography' is missing: a session moves to "
                "whichever worker is asked and loses its tools' state, and an answer to a tool's "
                "question is refused elsewhere. Install the extra 'relay' on every worker "
                "(pip install 'mcp-persist-middleware[relay]'), or let sessions stick to their "
                'workers and set session_routing="local"'
            )

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
                room = _MOST_RUNNING - sum(not r.left.is_set() for r in self._running.values())
                if room <= 0:
                    self._ended.clear()
                    await self._ended.wait()
                    continue
                requests = await self._claim(min(room, _PAGE))
                for request in requests:
                    self._start(request)
                if len(requests) < min(room, _PAGE):
                    return
        except StoreError as error:
            logger.warning("MPM-RELAY-06: Requests of other workers wait: %s", error)
            await asyncio.sleep(_AFTER_FAILURE)
            topic.notify()

    async def _claim(self, limit: int) -> list[RelayRequest]:
        now, began = self._inbox.now(), time.monotonic()
        try:
            requests = await self._inbox.claim(self._worker, limit, now, now + self._patience)
        except BaseException:
            # It may be committed at any time from now on; what is so later than this is overdue.
            self._doubtful_until = time.monotonic() + self._patience
            raise
        if time.monotonic() - began < self._patience:
            return requests
        # Their senders may have been told by now.
        self._doubtful_until = time.monotonic() + self._patience
        return []

    @property
    def _is_in_doubt(self) -> bool:
        return time.monotonic() < self._doubtful_until

    async def _settle_doubt(self) -> None:
        """A claim whose outcome was never heard may have been committed, or be so later: what
        nobody runs is given back, with the word that it was not run."""
        if self._is_in_doubt:
            for request in await self._inbox.claimed(self._worker):
                if request not in self._running and request not in self._lost:
                    await self._answer(request, NotExecuted())

    def _start(self, request: RelayRequest) -> None:
        held = self._executor.session(request)
        principal = surely(held.record.principal) if held is not None else ""
        run = _Run(request, principal or (held.owner or "" if held is not None else ""))
        others = [each for each in self._running.values() if not each.left.is_set()]
        before = [each for each in others if each.request.key == request.key]
        of_owner = sum(each.owner == run.owner for each in others) if run.owner else 0
        most = _OF_ONE_PRINCIPAL if principal else _OF_ONE_ADDRESS
        run.is_full = len(before) >= _OF_ONE_SESSION or of_owner >= most
        self._running[request.id] = run
        run.task = self._tasks.spawn(self._serve(run, before), "mcp-persist-relayed")
        run.task.add_done_callback(lambda _: self._end(request.id))

    def _end(self, request: bytes) -> None:
        del self._running[request]
        self._ended.set()

    async def renew(self) -> None:
        """Say which requests still run here, until cancelled, and hear whom nobody waits for."""
        pause = seldom = self._settings.lease_seconds / _RENEWALS
        while True:
            await asyncio.sleep(pause)
            runs = [r for r in self._running.values() if not (r.is_answered or r.left.is_set())]
            try:
                if runs:
                    await self._renew(runs)
                pause = seldom
            except StoreError as error:
                logger.warning(
                    "MPM-RELAY-07: What runs for other workers is not renewed yet: %s", error
                )
                pause = min(seldom, _AFTER_FAILURE)

    async def _renew(self, runs: Sequence[_Run]) -> None:
        until = self._inbox.now() + self._patience
        there = set(await self._inbox.renew(self._worker, [run.request.id for run in runs], until))
        for run in runs:
            if run.request.id not in there:
                run.left.set()
        self._ended.set()

    async def _serve(self, run: _Run, before: Sequence[_Run]) -> None:
        request = run.request
        reply: Reply = NotExecuted(queue_full=True)
        if not run.is_full:
            tasks = [each.task for each in before]
            reply = await self._executor.run(request, tasks, run.receive)
        run.is_answered = True
        until = time.monotonic() + self._patience
        while True:
            try:
                await self._answer(request.id, reply)
            except StoreError as error:
                if time.monotonic() >= until:
                    logger.error(
                        "MPM-RELAY-08: An answer is lost, as its caller has been told: %s", error
                    )
                    self._lost[request.id] = None
                    return
                logger.warning(
                    "MPM-RELAY-09: The answer to a relayed request cannot be kept yet: %s", error
                )
                await asyncio.sleep(_AFTER_FAILURE)
            else:
                return

    async def _answer(self, request: bytes, reply: Reply) -> None:
        until = self._inbox.now() + _REPLY_SECONDS
        await self._inbox.answer(request, self._worker, reply.pack(), until)
