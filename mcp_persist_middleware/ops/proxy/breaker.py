"""A circuit breaker for one upstream: who cannot be reached is not asked by every request.

Closed, open, half-open, as in M. Nygard, "Release It!", chapter 5.
"""

import enum
import time
from collections.abc import Callable

from mcp_persist_middleware import telemetry


class State(enum.Enum):
    """Of the circuit."""

    CLOSED = "closed"
    """Requests pass."""
    OPEN = "open"
    """No request passes."""
    HALF_OPEN = "half_open"
    """One request is on its way to see whether the upstream is back."""


class CircuitBreaker:
    """Counts failures to reach an upstream, one after the other.

    An answer of any status is a success: an application that says 500 can be reached.

    Args:
        failures: so many in a row open it.
        open_seconds: for so long nothing passes then.
        name: of the upstream, in metrics.
    """

    def __init__(
        self,
        failures: int = 5,
        open_seconds: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
        *,
        name: str = "1",
    ) -> None:
        self._limit = failures
        self._open_seconds = open_seconds
        self._clock = clock
        self._name = name
        self._failures = 0
        self._until = 0.0
        self.state = State.CLOSED

    @property
    def retry_after(self) -> float:
        """Seconds until a request may pass again; 0 when one may now."""
        if self.state is State.HALF_OPEN:
            return self._open_seconds
        return max(0.0, self._until - self._clock()) if self.state is State.OPEN else 0.0

    def admits(self) -> bool:
        """Whether a request may pass. The first after `open_seconds` is the one that tries, and
        has to be followed by `succeeded`, `failed` or `withdrawn`."""
        match self.state:
            case State.CLOSED:
                return True
            case State.OPEN if self._clock() >= self._until:
                self._change(State.HALF_OPEN)
                return True
            case _:
                return False

    def succeeded(self) -> None:
        """The upstream has answered."""
        self._failures = 0
        self._change(State.CLOSED)

    def failed(self) -> None:
        """It could not be reached, or began no answer in time."""
        self._failures += 1
        if self.state is State.HALF_OPEN or self._failures >= self._limit:
            self._until = self._clock() + self._open_seconds
            self._change(State.OPEN)

    def withdrawn(self) -> None:
        """The request ended before it could tell: its client has left."""
        if self.state is State.HALF_OPEN:
            self._until = self._clock()
            self._change(State.OPEN)

    def _change(self, state: State) -> None:
        if state is not self.state:
            self.state = state
            telemetry.circuit.add(1, {"state": state.value, "upstream": self._name})
