"""What is kept of what was removed: when, how much of what, and why; nothing of its content."""

import enum
import secrets
from dataclasses import dataclass

MOST = 10_000
"""So many are kept, the newest."""


class Reason(enum.StrEnum):
    """Why something was removed."""

    AGE = "age"
    """Its time was over, or its session was deleted."""
    COUNT = "count"
    """More than `max_kept_streams`."""
    BYTES = "bytes"
    """More than `max_kept_bytes`."""
    STORE = "store"
    """More than `max_store_bytes`."""
    FORGOTTEN = "forgotten"
    """Somebody has asked for it: `Persistence.forget`."""


@dataclass(frozen=True, slots=True)
class Deletion:
    """That something was removed."""

    at: float
    """When, by the store's clock, in seconds since the Unix epoch."""
    reason: Reason
    namespace: str
    """Empty where it was looked for in all of them."""
    kind: str
    """`streams`, `events`, `sessions`, `requests`, `relayed`, `jobs` or `journal`."""
    count: int

    def key(self) -> str:
        """A new name for it; names are in the order of time."""
        return f"{int(self.at * 1000):012x}{secrets.token_hex(10)}"
