"""Takes down what was removed, a few rows for a round of removing."""

from collections import Counter

from mcp_persist_middleware import telemetry
from mcp_persist_middleware.log.base import EventLog, Purged
from mcp_persist_middleware.log.deletions import Deletion, Reason


class DeletionNotes:
    """What one loop has removed since it last wrote it down."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._counts: Counter[tuple[Reason, str, str]] = Counter()

    def add(self, reason: Reason, purged: Purged) -> None:
        """Count a step."""
        for namespace, part in purged.removed.items():
            telemetry.purged_streams.add(part.streams, {"namespace": namespace})
            telemetry.purged_events.add(part.events, {"namespace": namespace})
            if reason is not Reason.AGE:
                where = {"namespace": namespace, "reason": str(reason)}
                telemetry.bounded_streams.add(part.streams, where)
            self._counts[reason, namespace, "streams"] += part.streams
            self._counts[reason, namespace, "events"] += part.events

    async def write(self) -> None:
        """Write down what there is.

        Raises:
            StoreError: the store does not do it; nothing is lost.
        """
        now = self._log.now()
        told = [Deletion(now, *what, count) for what, count in self._counts.items() if count]
        if told:
            await self._log.note_deletions(told)
        self._counts.clear()
