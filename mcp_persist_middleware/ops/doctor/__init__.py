"""What an operator is to know of a store and of what is installed, each in a line, and what to do.

A check is a function that gives findings. One that fails for reasons of its own is a finding too.
"""

import enum
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from mcp_persist_middleware.errors import PersistError
from mcp_persist_middleware.settings import Settings
from mcp_persist_middleware.stores.sql.inspection import Inspection


class Level(enum.StrEnum):
    """How bad it is."""

    OK = "ok"
    SKIPPED = "-"
    WARNING = "warning"
    FAILURE = "failure"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line."""

    name: str
    level: Level
    said: str
    fix: str = ""
    """What to do; empty where there is nothing to do."""

    @property
    def is_trouble(self) -> bool:
        """Whether there is something to do."""
        return self.level in (Level.WARNING, Level.FAILURE)

    def as_json(self) -> dict[str, str | None]:
        """It for programs."""
        told = {"check": self.name, "level": self.level.name.lower(), "said": self.said}
        return told | {"fix": self.fix or None}


@dataclass(frozen=True, slots=True)
class Patient:
    """What is looked at."""

    settings: Settings
    store: Inspection


Check = Callable[[Patient], AsyncIterator[Finding]]


async def examine(patient: Patient, name: str, check: Check) -> list[Finding]:
    """The findings of one check, whatever it raises."""
    try:
        return [finding async for finding in check(patient)]
    except PersistError as error:
        return [Finding(name, Level.FAILURE, str(error))]
