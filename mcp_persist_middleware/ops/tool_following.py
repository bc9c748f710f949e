"""The events of one tool's calls. Which streams are a tool's only the journal knows, and it knows
of a call when that has ended."""

import contextlib
from collections.abc import AsyncGenerator, Sequence

from mcp_persist_middleware.errors import PersistError
from mcp_persist_middleware.log.journal import JournalEntry, Sought, earliest
from mcp_persist_middleware.ops.following import NewEvent
from mcp_persist_middleware.stores.sql.inspected import Wanted
from mcp_persist_middleware.stores.sql.inspection import Inspection

_PAGE, _EVENTS = 200, 10_000
# Rows are written so much later (seconds) than they are dated, where the store was away.
_LATE = 30.0


class EmptyJournalError(PersistError):
    """Which streams are of the tool {tool!r} only the journal knows, and that of the store {url} is
    empty: let the servers on it keep one with journal=True."""

    code = "MPM-CLI-04"


class ToolFollower:
    """Tells a call's events when it has ended, and each call once."""

    def __init__(self, inspection: Inspection, tool: str, wanted: Wanted) -> None:
        self._inspection = inspection
        self._tool = tool
        self._wanted = wanted
        self._told: set[str] = set()
        """The entries that a look may find again, and does not tell."""

    async def latest(self, count: int) -> list[NewEvent]:
        """The newest events so far; what ends later is told by `look`.

        Raises:
            EmptyJournalError: there is no journal.
        """
        if not await self._inspection.journal(Sought(), 1):
            raise EmptyJournalError(tool=self._tool, url=self._inspection.name)
        self._told = {entry.id for entry in await self._recent()}
        found: list[NewEvent] = []
        async with contextlib.aclosing(self._pages(self._wanted.created_after or 0.0)) as pages:
            while len(found) < count and (page := await anext(pages, None)):
                before = len(found)
                for entry in page:
                    self._told.add(entry.id)
                    found[:0] = await self._events(entry)
                    if len(found) >= count:
                        break
                if len(found) == before:
                    # Retention has been here, and what is older went before.
                    break
        return found[-count:] if count else []

    async def look(self) -> list[NewEvent]:
        """The events of the calls that have ended since."""
        recent = await self._recent()
        new = [entry for entry in reversed(recent) if entry.id not in self._told]
        # What is far older than all that is looked at does not come any more.
        oldest = earliest(await self._inspection.now() - 2 * _LATE)
        self._told = {id_ for id_ in self._told if id_ > oldest} | {entry.id for entry in recent}
        return [event for entry in new for event in await self._events(entry)]

    async def _recent(self) -> list[JournalEntry]:
        """All that may be new, the newest first."""
        since = await self._inspection.now() - _LATE
        return [entry async for page in self._pages(since) for entry in page]

    async def _pages(self, since: float) -> AsyncGenerator[Sequence[JournalEntry]]:
        wanted = self._wanted
        sought = Sought(
            tool=self._tool,
            session=wanted.session,
            namespace=wanted.namespace,
            after=earliest(since),
        )
        before = ""
        while page := await self._inspection.journal(sought, _PAGE, before=before):
            yield page
            before = page[-1].id

    async def _events(self, entry: JournalEntry) -> list[NewEvent]:
        """Those that retention has left."""
        record = await self._inspection.stream(entry.stream) if entry.stream else None
        found: list[NewEvent] = []
        after = 0
        while record and (heads := await self._inspection.heads(record.id, after, _EVENTS)):
            found += [NewEvent(record, head) for head in heads]
            after = heads[-1].sequence
        return found
