"""Sessions, and the stream that each may have of its own."""

from dataclasses import dataclass
from typing import NamedTuple

NOTE = "\u21ba"
"""Begins the id of what is noted beside the sessions and is none: header values are Latin-1, so no
client can name it."""


class SessionKey(NamedTuple):
    """A session as its clients name it, and where that name holds."""

    namespace: str
    path: str
    id: str
    """The public id: valid for as long as the session lives, whatever holds it."""


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """A session as the store knows it: all that it takes to bring it back."""

    key: SessionKey
    principal: str
    version: str
    """The protocol version that was negotiated."""
    initialize: bytes
    """The body of the client's `initialize` request."""
    generation: int
    """Counts the application's sessions that have stood behind the public id, from 1."""
    home: str
    """The worker that holds the application's session."""
    expires_at: float
    deleted: bool = False
    fingerprint: str = ""
    """A hash of what the application promised in its answer to `initialize`."""
    level: str = ""
    """The body of the last `logging/setLevel` parameters, or an empty string."""
    subscriptions: tuple[str, ...] = ()
    """The resources the client is subscribed to."""
    began_at: float = 0.0
    """When it began, by the store's clock; 0 where that is not known."""


class SessionStreamState(NamedTuple):
    """A session's own stream as all workers share it, and whose turn it is to receive."""

    turn: int = 0
    """Goes up whenever another connection receives from now on."""
    worker: str = ""
    """Where that connection is; empty when it has left."""
    stream: bytes = b""
    """The stream; empty before the first one has begun."""
    sequence: int = 0
    """The number of the last of its events that was written to a client, as far as is known."""
