"""One worker's life on a store: what it opens, what runs around it, and how it leaves."""

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Self

from mcp_persist_middleware import telemetry
from mcp_persist_middleware.journal.params import AllowedParams
from mcp_persist_middleware.journal.retention import JournalRetention
from mcp_persist_middleware.journal.writer import JournalWriter
from mcp_persist_middleware.log.base import EventLog
from mcp_persist_middleware.log.codecs.coded import CodedLog
from mcp_persist_middleware.log.membership.heartbeat import Heartbeat
from mcp_persist_middleware.log.membership.lease import Lease
from mcp_persist_middleware.log.membership.member import Member
from mcp_persist_middleware.log.membership.peers import Peers
from mcp_persist_middleware.log.membership.readers import ReaderLeases
from mcp_persist_middleware.log.writer import Writer
from mcp_persist_middleware.maintenance.bounds import Bounds
from mcp_persist_middleware.maintenance.reaper import OrphanReaper
from mcp_persist_middleware.maintenance.retention import RetentionLoop
from mcp_persist_middleware.model import WorkerState
from mcp_persist_middleware.protocol import eras
from mcp_persist_middleware.relay.client import RelayClient
from mcp_persist_middleware.relay.server import RelayServer
from mcp_persist_middleware.sessions.registry import Registry
from mcp_persist_middleware.settings import Settings
from mcp_persist_middleware.shutdown import ShutdownWatch
from mcp_persist_middleware.stores.connect import make_log
from mcp_persist_middleware.streams import exit_guard
from mcp_persist_middleware.streams.context import Context
from mcp_persist_middleware.streams.drain import Drain
from mcp_persist_middleware.streams.memory import Memory
from mcp_persist_middleware.supervision import Supervisor, said
from mcp_persist_middleware.tasks import unbegun
from mcp_persist_middleware.tasks.watch import JobWatch

logger = logging.getLogger(__name__)

# What the application still runs, and what waits for the store, has so long (seconds) at the end.
_STOP_SECONDS = 5.0
# A lost lease is to cost a moment: who does not hear a cancellation is not waited for.
_GIVE_UP_SECONDS = 1.0
# A step of closing has so many times the store's time-out, and a lease for the heartbeat.
_PATIENCE = 5.0

ClosingStep = Callable[[], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Parts:
    """What is open on one event loop."""

    exchanges: Context
    sessions: Registry
    relay: RelayClient


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker that is enrolled. Whoever loses its lease leaves, and begins anew as another."""

    parts: Parts
    _opened: contextlib.AsyncExitStack

    @classmethod
    async def open(
        cls,
        settings: Settings,
        memory: Memory,
        on_lost: Callable[[], None],
        before: Registry | None = None,
    ) -> Self:
        """Open the store, under a name that nobody had before. The task that calls this owns all
        that runs around it, and is the one that leaves.

        Args:
            memory: what is known of the application.
            on_lost: called when the lease is lost.
            before: the sessions of the worker before this one, which has lost its lease.

        Raises:
            StoreError: the store cannot be opened.
        """
        async with contextlib.AsyncExitStack() as opened:
            closing, group = _Closing(opened, settings), await asyncio.TaskGroup().__aenter__()
            # Its children have ended by then. It is told of no error: it would wrap it.
            closing.add("Tasks", lambda: group.__aexit__(None, None, None))
            tasks = Supervisor(asyncio.current_task(), group)
            parts = await _open(closing, settings, memory, tasks, on_lost, before)
            return cls(parts, opened.pop_all())

    async def give_up(self) -> bool:
        """Leave because the lease was lost. Whether another worker may have taken over what this
        one had: it was declared dead, or nobody can tell."""
        context = self.parts.exchanges
        await context.give_up(_GIVE_UP_SECONDS)
        try:
            async with asyncio.timeout(context.settings.store_timeout):
                was_taken = not await _lives(context.log, context.member.name)
        except Exception as error:  # noqa: BLE001
            logger.warning(
                "MPM-WORKER-03: Whether this worker was taken for dead is not known: %s",
                said(error),
            )
            was_taken = True
        await self.leave()
        return was_taken

    async def leave(self) -> None:
        """Stop what runs around the store, and close it: every step, whatever another raises."""
        await self._opened.aclose()


def _introduced(log: EventLog, settings: Settings, member: Member) -> str:
    """What a worker is and has, in one line without a secret."""
    revisions = eras.served(modern=settings.modern_streams == "resume")
    return (
        f"mcp-persist-middleware {telemetry.VERSION}: streams are kept in {log.name}; "
        f"{log.durability}; other workers: {len(member.peers.others(member.name))}; "
        f"protocol revisions: {', '.join(revisions)}"
    )


async def _lives(log: EventLog, worker: str) -> bool:
    """Beat once more: of this and a declaration of death one comes first, and who lives now lives
    for another lease."""
    table = log.worker_table()
    try:
        return await table.beat(worker, WorkerState.LIVE)
    finally:
        await table.aclose()


async def _enrolled(log: EventLog, worker: str, seconds: float) -> Lease:
    """The lease of a worker, whose store is open then."""
    lease = Lease(seconds)
    await log.open(worker)
    began = time.monotonic()
    # A store that was opened for long has left little of it, or nothing.
    if lease.age > seconds / 2 and await _lives(log, worker):
        lease.keep(began)
    return lease


class _Closing:
    """The steps at the end, the last one that was added first. None keeps another from running."""

    def __init__(self, opened: contextlib.AsyncExitStack, settings: Settings) -> None:
        self._opened = opened
        self._seconds = _PATIENCE * settings.store_timeout + settings.lease_seconds

    def add(self, what: str, step: ClosingStep) -> None:
        """One more step, which has a bounded time."""
        self._opened.push_async_callback(self._run, what, step)

    async def _run(self, what: str, step: ClosingStep) -> None:
        try:
            async with asyncio.timeout(self._seconds):
                await step()
        except Exception as error:  # noqa: BLE001
            logger.warning("MPM-WORKER-04: %s not left in order: %s", what, said(error))


async def _open(
    closing: _Closing,
    settings: Settings,
    memory: Memory,
    tasks: Supervisor,
    on_lost: Callable[[], None],
    before: Registry | None,
) -> Parts:
    log, name = CodedLog(make_log(settings), settings), secrets.token_hex(8)
    closing.add("The store", log.aclose)
    lease = await _enrolled(log, name, settings.lease_seconds)
    heartbeat = Heartbeat(log, name, lease)
    closing.add("The heartbeat", heartbeat.aclose)
    if (journal := _journal(log, settings, name)) is not None:
        closing.add("The journal", journal.aclose)
    closing.add("What runs around the store", tasks.aclose)
    writer = Writer(log, settings.store_timeout, lambda: lease.is_held, tasks)
    closing.add("The writer", lambda: writer.aclose(_STOP_SECONDS))
    peers = Peers(log, heartbeat.failure_detector)
    member = Member(name, lease, peers, ReaderLeases(log, tasks))
    drain = Drain(settings.drain_seconds, heartbeat.drain)
    context = Context(settings, log, writer, member, drain, tasks, memory)
    closing.add("Readers", context.subscribers.aclose)
    closing.add("Hints", context.boards.aclose)
    registry = Registry(log.sessions, settings, name, peers, lambda: writer.is_down, before)
    closing.add("Sessions", registry.keep)
    closing.add("Calls", lambda: _end_calls(context))
    if journal is not None:
        params = AllowedParams(settings.journal_params)
        context.reports.keep(journal.note, params.of if params else None, journal.forget)
        tasks.keep(journal.run, "mcp-persist-journal")
    await _run_beside(context, registry, heartbeat, on_lost)
    exit_guard.install()
    watch = ShutdownWatch(drain.begin, drain.hurry, tasks)
    closing.add("The watch for a shutdown", watch.aclose)
    await watch.open()
    largest = max(settings.max_event_bytes, settings.max_body_bytes)
    relay = RelayClient(log.inbox, log.wakeups, peers, settings.lease_seconds, largest)
    return Parts(context, registry, relay)


def _journal(log: EventLog, settings: Settings, worker: str) -> JournalWriter | None:
    """Who writes the journal, where there is to be one."""
    if not settings.journal:
        return None
    if log.journal is None:
        logger.warning(
            "MPM-JOURNAL-03: journal=True, and no journal is kept: %s has none", log.name
        )
        return None
    return JournalWriter(log.journal, settings.store_timeout, worker)


def _reaper(context: Context) -> OrphanReaper:
    log, member, settings = context.log, context.member, context.settings
    send_back, on_gone = context.drain.send_back, partial(unbegun.begin_all, context)
    return OrphanReaper(
        log, member.peers, settings, member.name, context.takeover, send_back, on_gone
    )


async def _run_beside(
    context: Context, registry: Registry, heartbeat: Heartbeat, on_lost: Callable[[], None]
) -> None:
    """Begin what runs beside the requests."""
    settings, log, member, tasks = context.settings, context.log, context.member, context.background
    relay_server = RelayServer(
        log.inbox, log.wakeups, member.peers, member.lease, registry, settings, member.name, tasks
    )
    reaper = _reaper(context)
    await relay_server.open()
    context.writer.start()

    telemetry.count_codes()
    introduced = False

    def on_change() -> None:
        nonlocal introduced
        if not introduced:
            # With the first look at the others: nobody waits for a line in the log.
            introduced = True
            logger.info("%s", _introduced(log, settings, member))
        reaper.wake()
        relay_server.wake()

    heartbeat.start(on_change=on_change, on_lost=on_lost)
    chores = [registry.keep, relay_server.purge, JournalRetention(log, settings).purge]
    if log.jobs is not None:
        watch = JobWatch(context, log.jobs)
        tasks.keep(watch.run, "mcp-persist-jobs")
        chores.append(watch.purge)
    elif settings.tasks:
        logger.info("The store %s keeps no jobs: no call becomes a task", log.name)
    retention = RetentionLoop(log, settings, *chores)
    tasks.keep(retention.run, "mcp-persist-retention")
    if not (bounds := Bounds(log, settings)).is_idle:
        tasks.keep(bounds.run, "mcp-persist-bounds")
    tasks.keep(reaper.run, "mcp-persist-reaper")
    tasks.keep(relay_server.run, "mcp-persist-relay-server")
    tasks.keep(relay_server.renew, "mcp-persist-relay-renewals")


async def _end_calls(context: Context) -> None:
    # Without the lease they have had their time.
    if context.holds_lease:
        await context.cancel_exchanges(_STOP_SECONDS)
    context.drain.close()
