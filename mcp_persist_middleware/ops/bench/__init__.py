"""How fast a store is, with the settings and on the machine that it is used with: what is measured
is the library's own code, in this process, without sockets and without an SDK."""

from collections.abc import Sequence
from dataclasses import dataclass, field

__all__ = ["Measure"]


@dataclass(frozen=True, slots=True)
class Measure:
    """What one measure found."""

    name: str
    rate: float
    """How many a second."""
    of: str
    """Of what."""
    times: Sequence[float] = field(default=(), repr=False)
    """How long each took (seconds), the shortest first; empty where that says nothing."""

    def percentile(self, fraction: float) -> float | None:
        """The time within which this part of them was done."""
        if not self.times:
            return None
        return self.times[min(len(self.times) - 1, int(fraction * len(self.times)))]

    def as_json(self) -> dict[str, object]:
        """It for programs; times in milliseconds."""

        def ms(fraction: float) -> float | None:
            seconds = self.percentile(fraction)
            return None if seconds is None else round(seconds * 1e3, 4)

        told = {"measure": self.name, "rate": round(self.rate, 1), "of": self.of}
        return told | {"p50_ms": ms(0.5), "p99_ms": ms(0.99)}
