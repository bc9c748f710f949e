"""What a comparison of two stores says."""

from dataclasses import dataclass, field

_NAMES = 20


@dataclass(slots=True)
class Comparison:
    """What two stores have in common, and what not."""

    streams: int = 0
    """Of the first."""
    events: int = 0
    sessions: int = 0
    jobs: int = 0
    journal: int = 0
    """Rows of it."""
    checksums: tuple[str, str] = ("", "")
    """Over all streams of each."""
    ahead: int = 0
    """Streams and jobs that have gone on in the second one."""
    behind: int = 0
    """Streams and jobs that have gone on in the first one."""
    missing: int = 0
    """What the second one lacks: streams, sessions, jobs, rows of the journal."""
    different: int = 0
    """What says something else there."""
    names: list[str] = field(default_factory=list)
    """Some of those that are missing or different."""

    @property
    def ok(self) -> bool:
        """Whether the second one has all that the first one has."""
        return not (self.missing or self.different)

    def note(self, what: str, name: str) -> None:
        """Count what is not as it should be."""
        setattr(self, what, getattr(self, what) + 1)
        if what in ("missing", "different") and len(self.names) < _NAMES:
            self.names.append(f"{name} ({what})")
