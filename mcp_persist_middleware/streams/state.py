"""Where an exchange is, and the stream that it is answered with."""

import enum
from dataclasses import dataclass

from mcp_persist_middleware.log.live import LiveStream


class ExchangeState(enum.Enum):
    """Where the answer of the application goes."""

    HOLDING = "holding"
    """It has not begun."""
    PASSING = "passing"
    """To the client as it is: it is not an event stream."""
    STREAMING = "streaming"
    """To the log."""
    COLLECTING = "collecting"
    """To the log as one event: the stream was opened before it began."""
    DROPPING = "dropping"
    """Nowhere: its stream is complete, or its client left before it held an id."""


@dataclass(frozen=True, slots=True)
class Opened:
    """The stream that answers a request, and the head to begin it with."""

    stream: LiveStream
    head: list[tuple[bytes, bytes]]
