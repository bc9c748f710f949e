"""What every request of one event loop shares."""

import asyncio
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

from mcp_persist_middleware import telemetry
from mcp_persist_middleware.log.base import EventLog
from mcp_persist_middleware.log.live import Limits
from mcp_persist_middleware.log.writer import Writer
from mcp_persist_middleware.settings import Settings

if TYPE_CHECKING:
    from mcp_persist_middleware.exchange.pump import Exchange

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Recent(Generic[K, V]):
    """A bounded memory: the entry that was set longest ago goes first."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._entries: OrderedDict[K, V] = OrderedDict()

    def set(self, key: K, value: V) -> None:
        """Remember."""
        self._entries[key] = value
        self._entries.move_to_end(key)
        if len(self._entries) > self._size:
            self._entries.popitem(last=False)

    def get(self, key: K) -> V | None:
        """What is remembered, or None."""
        return self._entries.get(key)

    def __contains__(self, key: K) -> bool:
        return key in self._entries


@dataclass
class Memory:
    """What this worker has learned from the application's answers. Losing it costs nothing but
    an early start."""

    paths: Recent[str, None] = field(default_factory=lambda: Recent(1024))
    """Paths that answered an MCP request with success."""
    answers_json: Recent[str, bool] = field(default_factory=lambda: Recent(1024))
    """Paths of the handshake eras: whether their last answer was JSON, not a stream."""
    trusted: Recent[str, float] = field(default_factory=lambda: Recent(4096))
    """Keyed hashes of credentials, and when (monotonic) they last got a 2xx."""
    large_tools: Recent[tuple[str, str], None] = field(default_factory=lambda: Recent(1024))
    """Path and name of tools whose last answer is too large for one event."""


@dataclass
class Context:
    """The open store and the running exchanges of one event loop."""

    settings: Settings
    log: EventLog
    writer: Writer
    worker: str
    limits: Limits
    memory: Memory = field(default_factory=Memory)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    """Strong references to the pumps: the event loop itself holds only weak ones."""
    detached: "OrderedDict[Exchange, None]" = field(default_factory=OrderedDict)
    """Exchanges without a reader, the longest alone first."""
    session_streams: "dict[tuple[str, str], Exchange]" = field(default_factory=dict)
    """The running GET exchange of each path and session."""
    warned: set[str] = field(default_factory=set)
    """The warnings that are given once."""

    def set_detached(self, exchange: "Exchange", *, detached: bool) -> "Exchange | None":
        """Note whether an exchange runs without a reader; returns one that has to go when there
        are more than `max_detached`.
        """
        was = exchange in self.detached
        if detached:
            self.detached[exchange] = None
        elif was:
            del self.detached[exchange]
        telemetry.detached.add(detached - was)
        if len(self.detached) <= self.settings.max_detached:
            return None
        telemetry.detached.add(-1)
        return self.detached.popitem(last=False)[0]
