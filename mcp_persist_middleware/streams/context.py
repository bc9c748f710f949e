"""What every request of one event loop shares."""

import asyncio
from dataclasses import dataclass, field

from mcp_persist_middleware.log.base import EventLog
from mcp_persist_middleware.log.live import Limits
from mcp_persist_middleware.log.membership.lease import Lease
from mcp_persist_middleware.log.membership.peers import Peers
from mcp_persist_middleware.log.membership.readers import ReaderLeases
from mcp_persist_middleware.log.reads import Reads
from mcp_persist_middleware.log.takeover import Takeover
from mcp_persist_middleware.log.writer import Writer
from mcp_persist_middleware.model import Place
from mcp_persist_middleware.settings import Settings
from mcp_persist_middleware.streams.detached import Detached, Running
from mcp_persist_middleware.streams.drain import Drain
from mcp_persist_middleware.streams.memory import Memory
from mcp_persist_middleware.streams.newborn import Newborn
from mcp_persist_middleware.streams.subscribers import SessionSubscribers
from mcp_persist_middleware.supervision import Supervisor, Tasks


@dataclass
class Context:
    """The open store and the running exchanges of one event loop, for the life of one worker: who
    loses its lease goes on with another context, and this one never runs anything again."""

    settings: Settings
    log: EventLog
    writer: Writer
    worker: str
    limits: Limits
    reader_leases: ReaderLeases
    lease: Lease
    peers: Peers
    drain: Drain
    subscribers: SessionSubscribers
    background: Supervisor = field(default_factory=Supervisor)
    """Owns what runs beside the requests."""
    memory: Memory = field(default_factory=Memory)
    tasks: Tasks = field(default_factory=lambda: Tasks("mcp-persist-pump"))
    """What runs the application, one for each exchange."""
    detached: Detached = field(init=False)
    """Exchanges without a reader."""
    newborn: Newborn = field(init=False)
    """Requests that wait for streams to be committed."""
    takeover: Takeover = field(init=False)
    """What becomes of the streams of workers that are gone."""
    session_streams: dict[tuple[Place, str], Running] = field(default_factory=dict)
    """The running GET exchange of each place and session."""
    taking_over: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Streams of workers that are gone are taken over one at a time."""
    warned: set[str] = field(default_factory=set)
    """The warnings that are given once."""
    identity_headers: frozenset[bytes] = field(init=False)
    """Headers that name the caller beside those that are known to, in lower case."""
    reads: Reads = field(init=False)
    """What readers have of the store, each page once."""

    def __post_init__(self) -> None:
        named = self.settings.identity_headers
        self.identity_headers = frozenset(name.lower().encode() for name in named)
        self.reads, is_down = Reads(self.log), self.subscribers.is_down
        self.takeover = Takeover(
            self.log,
            self.peers,
            self.writer,
            self.worker,
            self.limits,
            self.settings.kept_for,
        )
        self.newborn = Newborn(self.log, self.background)
        self.detached = Detached(self.settings.max_detached, is_down, self.background)

    @property
    def holds_lease(self) -> bool:
        """Whether this worker may run anything: see `Lease`."""
        return self.lease.is_held

    def tells_ahead(self) -> bool:
        """Whether an answer may reach whoever has asked for it while its commit is on its way: it
        is known that nobody has taken its stream over, and the store does not keep it waiting."""
        return self.lease.is_young and self.writer.is_prompt

    async def give_up(self, timeout: float) -> None:
        """The lease is lost: drop the queues, end the clients' connections, cancel the pumps."""
        self.lease.lose()
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
