"""Where a connection begins to read, whoever reads and for the first time or the fifth."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from mcp_persist_middleware.log.cursor import Cursor
from mcp_persist_middleware.log.live import LiveStream
from mcp_persist_middleware.model import Event, StreamKind
from mcp_persist_middleware.protocol import headers
from mcp_persist_middleware.protocol.event_id import EventIds
from mcp_persist_middleware.streams.context import Context


@dataclass(frozen=True, slots=True)
class ReadPoint:
    """One connection's place in a stream, and what it is to that stream."""

    ids: EventIds
    after: int = 0
    """The last event that its client has."""
    live: LiveStream | None = None
    """The stream itself when it is written here."""
    is_open: bool = True
    """Whether somebody may write it still, here or elsewhere."""
    epoch: int = 1
    """The one in which the connection found it."""
    given: int = 0
    """That of the last event that its client has, where it may be an older one."""
    resumed: bool = True
    """Whether its client has been here before."""
    is_asking: bool = False
    """It is the connection that asked for the stream's answer: that may reach it while its commit
    is on its way."""
    told: tuple[Event, ...] = ()
    """All events of a stream that has ended, where they are known."""
    suppress_requests_through: int = 0
    """Requests of the server up to this event are too old for it."""
    head: headers.RawHeaders = ()

    @property
    def stream(self) -> bytes:
        """What is read."""
        return self.ids.stream

    @property
    def kind(self) -> StreamKind:
        """Which request made that."""
        return self.ids.kind

    def cursor(self, context: Context) -> Cursor:
        """A reader that begins here."""
        return Cursor(
            context.reads,
            self.stream,
            self.after,
            self.live,
            resumed=self.resumed,
            told=self.told,
            epoch=self.epoch,
            given=self.given,
            ahead=context.tells_ahead if self.is_asking else None,
        )

    @contextlib.contextmanager
    def present(self, context: Context) -> Iterator[None]:
        """The worker that writes the stream knows of a reader, whichever worker that is."""
        if self.live is not None:
            self.live.attach()
            try:
                yield
            finally:
                self.live.detach()
        elif self.is_open:
            with context.member.reader_leases.reading(self.stream):
                yield
        else:
            yield
