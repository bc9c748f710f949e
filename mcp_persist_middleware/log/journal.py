"""The journal of a store: a row for each exchange that has ended. A store need not have one."""

import secrets
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from mcp_persist_middleware.log.clock import Timed
from mcp_persist_middleware.log.whose import Whose
from mcp_persist_middleware.model import Owner


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalEntry:
    """An exchange that has ended."""

    id: str
    """Names it; in the order of their ends."""
    began: float
    """When, by the store's clock, in seconds since the Unix epoch."""
    first_event: float | None
    """Seconds until its first event; None where there was none."""
    duration: float
    """Seconds in all."""
    method: str
    tool: str
    """The tool, prompt or resource that was asked for; empty without."""
    version: str
    """The protocol revision."""
    outcome: str
    """An `ExchangeOutcome`, or what a newer version says."""
    error: str
    """What kind of error it was; empty without."""
    size: int
    """Bytes of its events, or of the answer that is none."""
    resumes: int
    """How often a client came back for it."""
    stream: bytes
    """The stream that it was logged to; empty where it was answered without."""
    owner: Owner
    worker: str
    trace: str
    """The trace id; empty without a trace."""
    params: bytes = b""
    """JSON of those parameters that `journal_params` allows; empty without."""


def new_id(ended: float) -> str:
    """A new entry's, which ended at this time by the store's clock."""
    return earliest(ended) + secrets.token_hex(10)


def earliest(ended: float) -> str:
    """Comes before every entry that ended at this time or later."""
    return f"{min(max(int(ended * 1000), 0), (1 << 48) - 1):012x}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sought:
    """Which entries are meant; None leaves it open."""

    tool: str | None = None
    outcome: str | None = None
    method: str | None = None
    session: str | None = None
    namespace: str | None = None
    slow: float | None = None
    """Seconds that it took at least."""
    after: str = ""
    """Those whose id is above this one."""

    def has(self, entry: JournalEntry) -> bool:
        """Whether an entry is meant."""
        return (
            entry.id > self.after
            and self.tool in (None, entry.tool)
            and self.outcome in (None, entry.outcome)
            and self.method in (None, entry.method)
            and self.session in (None, entry.owner.session)
            and self.namespace in (None, entry.owner.namespace)
            and (self.slow is None or entry.duration >= self.slow)
        )


class Journal(Timed, ABC):
    """The journal that every worker on a store writes to.

    Every method raises `StoreError` when the store does not do it.
    """

    @abstractmethod
    async def write(self, entries: Sequence[JournalEntry]) -> None:
        """Commit entries, in no way of the streams' own commits. One that is there already (a
        retry after a lost answer) stays as it is."""

    @abstractmethod
    async def find(self, sought: Sought, limit: int, *, before: str = "") -> Sequence[JournalEntry]:
        """The newest entries that are meant, or those of them whose id is below one."""

    @abstractmethod
    async def purge(self, until: float, most: int, limit: int) -> int:
        """Remove at most `limit` entries that ended before a time, or are not among the `most`
        newest; how many went."""

    @abstractmethod
    async def forget(self, whose: Whose) -> int:
        """Remove the entries that belong to somebody; how many went."""
