"""How much there is of something, or was."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Self


class Removed(NamedTuple):
    """How much retention removed."""

    streams: int = 0
    events: int = 0


@dataclass(frozen=True, slots=True)
class Purged:
    """What one step of retention removed, by namespace; `more` when it did not get to the end."""

    removed: Mapping[str, Removed]
    more: bool

    @classmethod
    def of(cls, parts: Iterable[tuple[str, Removed]], *, more: bool) -> Self:
        """The sum of parts, each with its namespace."""
        removed: dict[str, Removed] = {}
        for namespace, part in parts:
            before = removed.get(namespace, Removed())
            streams, events = before.streams + part.streams, before.events + part.events
            removed[namespace] = Removed(streams, events)
        return cls(removed, more)

    @property
    def streams(self) -> int:
        """Of all namespaces."""
        return sum(part.streams for part in self.removed.values())

    @property
    def events(self) -> int:
        """Of all namespaces."""
        return sum(part.events for part in self.removed.values())


class Written(NamedTuple):
    """How much there is of a stream."""

    last: int = 0
    """The number of its last event."""
    events: int = 0
    size: int = 0
    """The bytes of its events."""
