"""The events of one tool's calls. Which streams are a tool's only the journal knows, and it knows
of a call when that has ended."""

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
        self._told: dict[str, None] = {}
        """The entries that were told, or are older than all that is to be told."""

    async def latest(self, count: int) -> list[NewEvent]:
        """The newest events so far; what ends later is told by `look`.

        Raises:
            EmptyJournalError: there is no journal.
        """
        if not await self._inspection.journal(Sought(), 1):
            raise EmptyJournalError(tool=self._tool, url=self._inspection.name)
        found: list[NewEvent] = []
        ended = await self._entries(self._wanted.created_after or 0.0)
        for entry in ended if count else ():
            found[:0] = await self._events(entry)
            if len(found) >= count:
                break
        self._told = dict.fromkeys(entry.id for entry in ended)
        return found[-count:] if count else []

    async def look(self) -> list[NewEvent]:
        """The events of the calls that have ended since."""
        recent = await self._entries(await self._inspection.now() - _LATE)
        new = [entry for entry in reversed(recent) if entry.id not in self._told]
        self._told |= dict.fromkeys(entry.id for entry in new)
        # Who is that old does not come any more.
        for entry in list(self._told)[: -2 * _PAGE]:
            del self._told[entry]
        return [event for entry in new for event in await self._events(entry)]

    async def _entries(self, since: float) -> list[JournalEntry]:
        wanted = self._wanted
        sought = Sought(
            tool=self._tool,
            session=wanted.session,
            namespace=wanted.namespace,
            after=earliest(since),
        )
        return list(await self._inspection.journal(sought, _PAGE))

    async def _events(self, entry: JournalEntry) -> list[NewEvent]:
        """Those that retention has left."""
        record = await self._inspection.stream(entry.stream) if entry.stream else None
        if record is None:
            return []
        heads = await self._inspection.heads(record.id, 0, _EVENTS)
        return [NewEvent(record, head) for head in heads]
