"""A session of the application, as this worker holds it."""

import asyncio
import dataclasses
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from mcp_persist_middleware.model import SessionRecord

# `notifications/initialized`, a list and a call or two: then somebody has come to stay. So has who
# listens.
_BRIEF = 4

# Who serves the requests of a session that come from other workers: kept here for the relay, which
# alone knows what they look like.
Site = Callable[..., Awaitable[Any]]


@dataclass(slots=True, eq=False, weakref_slot=True)
class LocalSession:
    """A session of the application that stands behind a public id on this worker."""

    record: SessionRecord
    inner: str
    """The id that the application gave it."""
    used_at: float = dataclasses.field(default_factory=time.monotonic)
    is_kept: bool = True
    """Whether the store knows of it; it failed otherwise, and the session dies with us."""
    owner: str | None = None
    """Whose sessions it is counted among; None when it is not."""
    requests: int = 0
    """How many it had that count, up to the number that makes it more than a brief one."""
    noting: asyncio.Lock = dataclasses.field(default_factory=asyncio.Lock)
    """Held by whoever writes the record down."""
    site: Site | None = None
    """Runs a request that comes from another worker, where the session's own requests run."""
    is_revived: bool = False
    """Whether the application began it anew: what it kept in memory for it is not restored."""

    @property
    def is_brief(self) -> bool:
        """Whether its client may be one that makes a session for each call. One that came back
        is not."""
        return self.requests <= _BRIEF and self.record.generation == 1

    def count(self, method: str) -> None:
        """A request was made in it."""
        self.requests = _BRIEF + 1 if method == "GET" else min(self.requests, _BRIEF) + 1
