"""What differs between protocol revisions, as data."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Era:
    """How one family of revisions treats streams."""

    name: str
    sessions: bool
    """`initialize`, `Mcp-Session-Id`, DELETE and the standalone GET stream exist."""
    priming: bool
    """A stream begins with an event that has an id and empty data (SEP-1699)."""
    disconnect_cancels: bool
    """A client that leaves has cancelled its request."""


# 2025-03-26 and 2025-06-18: ids are allowed, a priming event breaks their clients.
EARLY = Era("2025-03-26", sessions=True, priming=False, disconnect_cancels=False)
PRIMED = Era("2025-11-25", sessions=True, priming=True, disconnect_cancels=False)
# Clients of 2026-07-28 are blind to the era when an id reaches them: they come back with it.
MODERN = Era("2026-07-28", sessions=False, priming=True, disconnect_cancels=True)

_ERAS = {
    "2024-11-05": EARLY,
    "2025-03-26": EARLY,
    "2025-06-18": EARLY,
    "2025-11-25": PRIMED,
    "2026-07-28": MODERN,
}


def served(*, modern: bool) -> list[str]:
    """The revisions whose streams are kept; with those of 2026-07-28 or without."""
    return [version for version, era in _ERAS.items() if modern or era is not MODERN]


def era_of(version: str | None) -> Era | None:
    """The era of a protocol version; without one it is 2025-03-26 (as the specification of
    2025-06-18 demands), and None for a version that nobody knows."""
    return EARLY if version is None else _ERAS.get(version)


def era_of_initialize(version: str) -> Era:
    """The era of an `initialize` request. A server answers an unknown version with one of its
    own choice, so the priming event is withheld then."""
    era = _ERAS.get(version, EARLY)
    return era if era.sessions else EARLY
