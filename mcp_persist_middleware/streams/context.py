"""What every request of one event loop shares."""

import asyncio
from dataclasses import dataclass, field
from typing import NamedTuple

from mcp_persist_middleware.log.base import EventLog
from mcp_persist_middleware.log.live import Limits
from mcp_persist_middleware.log.membership.member import Member
from mcp_persist_middleware.log.reads import Reads
from mcp_persist_middleware.log.takeover import Takeover
from mcp_persist_middleware.log.writer import Writer
from mcp_persist_middleware.model import JobRecord, Place
from mcp_persist_middleware.recent import Recent
from mcp_persist_middleware.settings import Settings
from mcp_persist_middleware.streams.crowd import Crowd
from mcp_persist_middleware.streams.detached import Detached, Running
from mcp_persist_middleware.streams.drain import Drain
from mcp_persist_middleware.streams.exchange_report import ExchangeReports
from mcp_persist_middleware.streams.hints.boards import Boards
from mcp_persist_middleware.streams.left_behind import LeftBehind
from mcp_persist_middleware.streams.memory import Memory
from mcp_persist_middleware.streams.newborn import Newborn
from mcp_persist_middleware.streams.subscribers import SessionSubscribers
from mcp_persist_middleware.supervision import Supervisor, Tasks

_PROGRESS = 4096


class LastProgress(NamedTuple):
    """What a stream's newest notification of progress said."""

    last: int
    """The last event that was looked at."""
    at: float
    """When (in the store) that was seen first."""
    message: str


@dataclass
class Context:
    """The open store and the running exchanges of one event loop, for the life of one worker: who
    loses its lease goes on with another context, and this one never runs anything again.

    Given is what there is of a worker; made here is what its requests share on top of that.
    """

    settings: Settings
    log: EventLog
    writer: Writer
    member: Member
    drain: Drain
    background: Supervisor
    """Owns what runs beside the requests."""
    memory: Memory
    """What this event loop knows of the application, whichever worker it is."""

    # The way to the store.

    limits: Limits = field(init=False)
    reads: Reads = field(init=False)
    """What readers have of the store, each page once."""
    newborn: Newborn = field(init=False)
    """Requests that wait for streams to be committed."""
    takeover: Takeover = field(init=False)
    """What becomes of the streams of workers that are gone."""
    taking_over: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Streams of workers that are gone are taken over one at a time."""

    # What runs here.

    tasks: Tasks = field(default_factory=lambda: Tasks("mcp-persist-pump"))
    """What runs the application, one for each exchange."""
    reports: ExchangeReports = field(init=False)
    """Who is told when an exchange is over."""
    detached: Detached = field(init=False)
    """Exchanges without a reader."""
    progress: Recent[bytes, LastProgress] = field(default_factory=lambda: Recent(_PROGRESS))
    """How far the streams of jobs were seen to be."""
    replied: Recent[tuple[Place, str, str], None] = field(default_factory=lambda: Recent(_PROGRESS))
    """What clients of sessions have answered lately, of what they were asked."""
    jobs: Recent[bytes, JobRecord] = field(default_factory=lambda: Recent(_PROGRESS))
    """Jobs that were begun here, without their requests."""
    doubtful: Recent[bytes, float] = field(default_factory=lambda: Recent(_PROGRESS))
    """Jobs that the store may have, and is to forget, and when (monotonic) it was last told of."""
    outliving: set[Running] = field(default_factory=set)
    """Exchanges that nobody need read: jobs."""
    session_streams: dict[tuple[Place, str], Running] = field(default_factory=dict)
    """The running GET exchange of each place and session."""
    subscribers: SessionSubscribers = field(init=False)
    """The connections to those."""
    crowd: Crowd = field(init=False)
    """Whoever waits for what a server may have to say."""
    boards: Boards = field(init=False)
    """What the listens of each place are let know."""

    def __post_init__(self) -> None:
        settings, log, writer, member = self.settings, self.log, self.writer, self.member
        self.limits = Limits(
            settings.run_ahead_events,
            settings.run_ahead_bytes,
            settings.max_stream_events,
            settings.max_stream_bytes,
        )
        self.reports = ExchangeReports(member.name)
        self.reads, self.newborn = Reads(log), Newborn(log, self.background)
        self.takeover = Takeover(
            log,
            member.peers,
            writer,
            member.name,
            self.limits,
            settings.kept_for,
            LeftBehind(log, self.reports, self.background, member.name).note,
        )
        most = settings.max_detached, settings.max_detached_of_one
        self.detached = Detached(*most, lambda: writer.is_down, self.background)
        self.subscribers = SessionSubscribers(
            log.sessions, member.peers, member.name, lambda: writer.is_down, self.background
        )
        self.crowd = Crowd(settings.max_listeners)
        self.boards = Boards(settings, log, member, self.background, self.tasks)

    @property
    def holds_lease(self) -> bool:
        """Whether this worker may run anything: see `Lease`."""
        return self.member.lease.is_held

    def tells_ahead(self) -> bool:
        """Whether an answer may reach whoever has asked for it while its commit is on its way: it
        is known that nobody has taken its stream over, and the store does not keep it waiting."""
        return self.member.lease.is_young and self.writer.is_prompt

    async def give_up(self, timeout: float) -> None:
        """The lease is lost: drop the queues, end the clients' connections, cancel the pumps."""
        self.member.lease.lose()
        for reader in list(self.drain.readers):
            reader.stop()
        await self.writer.abandon()
        await self.cancel_exchanges(timeout)

    async def cancel_exchanges(self, timeout: float) -> None:
        """What the application still runs is over."""
        self.tasks.cancel()
        await self.tasks.ended(timeout)

    @property
    def draining(self) -> bool:
        """Whether the worker is about to stop."""
        return self.drain.began
