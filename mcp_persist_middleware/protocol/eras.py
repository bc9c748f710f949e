"""What differs between protocol revisions, as data. A question about a revision is asked here by
its name; a new revision is a new entry."""

from dataclasses import dataclass, replace
from typing import Literal

from mcp_persist_middleware.model import JobFace
from mcp_persist_middleware.settings import Settings


@dataclass(frozen=True, slots=True)
class Era:
    """How one family of revisions treats streams."""

    versions: tuple[str, ...]
    keeps_sessions: bool
    """`initialize`, `Mcp-Session-Id`, DELETE and the standalone GET stream exist."""
    may_prime: bool
    """A stream may begin with an event that has an id and empty data (SEP-1699)."""
    disconnect_cancels: bool
    """A client that leaves has cancelled its request."""
    json_per_answer: bool
    """One answer is a stream and the next one JSON of any size, late or not: where it is not so,
    an application does the one or the other."""
    retry_setting: Literal["retry_ms", "modern_retry_ms"]
    """The setting that says how soon its clients come back."""
    streams_setting: Literal["modern_streams"] | None
    """The setting that may leave its streams alone."""
    tasks: JobFace | None
    """How its clients know tasks, if they may."""

    def retry_ms(self, settings: Settings) -> int:
        """How long its clients are asked to wait before they come back, in milliseconds."""
        return int(getattr(settings, self.retry_setting))

    def is_left_alone(self, settings: Settings) -> bool:
        """Whether its requests pass as they come."""
        return self.streams_setting is not None and (
            getattr(settings, self.streams_setting) == "pass"
        )


# Ids are allowed, a priming event breaks their clients.
EARLY = Era(
    ("2024-11-05", "2025-03-26", "2025-06-18"),
    keeps_sessions=True,
    may_prime=False,
    disconnect_cancels=False,
    json_per_answer=False,
    retry_setting="retry_ms",
    streams_setting=None,
    tasks=None,
)
PRIMED = replace(EARLY, versions=("2025-11-25",), may_prime=True, tasks=JobFace.CORE)
# Its clients are blind to the era when an id reaches them: they come back with it.
MODERN = Era(
    ("2026-07-28",),
    keeps_sessions=False,
    may_prime=True,
    disconnect_cancels=True,
    json_per_answer=True,
    retry_setting="modern_retry_ms",
    streams_setting="modern_streams",
    tasks=JobFace.EXTENSION,
)

ERAS = {version: era for era in (EARLY, PRIMED, MODERN) for version in era.versions}


def served(*, modern: bool) -> list[str]:
    """The revisions whose streams are kept; with those of 2026-07-28 or without."""
    return [version for version, era in ERAS.items() if modern or era is not MODERN]


def era_of(version: str | None) -> Era | None:
    """The era of a protocol version; without one it is 2025-03-26 (as the specification of
    2025-06-18 demands), and None for a version that nobody knows."""
    return EARLY if version is None else ERAS.get(version)


def era_of_initialize(version: str) -> Era:
    """The era of an `initialize` request. A server answers an unknown version with one of its
    own choice, so the priming event is withheld then."""
    era = ERAS.get(version, EARLY)
    return era if era.keeps_sessions else EARLY
