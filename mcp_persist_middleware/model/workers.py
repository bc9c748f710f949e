"""Workers, as they see each other."""

import enum
from typing import NamedTuple


class WorkerState(enum.IntEnum):
    """What a worker says of itself, or what the others have found out about it."""

    LIVE = 0
    DRAINING = 1
    """It shuts down: calls that run there may end, new ones belong elsewhere."""
    DEAD = 2
    """It stood still for a whole lease. It may not come back under this id."""


class Beat(NamedTuple):
    """A worker's row: whoever has seen `counter` move knows that it lived."""

    counter: int
    state: WorkerState
    seen_at: float
    """The time in the store at its last heartbeat, as that worker knew it."""
