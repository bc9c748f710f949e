"""What may have been removed from the store before a feed came to it, and of which no row tells."""

import math

from mcp_persist_middleware.errors import UnsupportedError
from mcp_persist_middleware.log.base import EventLog
from mcp_persist_middleware.log.deletions import Deletion, Reason
from mcp_persist_middleware.log.feed.items import FeedGap, GapReason, Terms
from mcp_persist_middleware.log.feed.positions import Positions

# Who is so far behind (seconds) finds everything.
_BEHIND = 60.0
_NOTES = 1000


class Losses:
    """Compares how far behind a feed is with what was removed meanwhile.

    A stream that was never seen and is gone leaves nothing to be missed by; that something went is
    noted. What went of age was kept for a time, and nobody who is less than that behind has missed
    it. What went because it was too much may be anything.

    Args:
        told: what was removed until then, by the store's clock, is told or nobody's loss.
    """

    def __init__(self, positions: Positions, terms: Terms, told: float) -> None:
        self._positions = positions
        self._terms = terms
        self._told = told

    async def look(self, log: EventLog) -> FeedGap | None:
        """A gap where something may be missing that no other gap tells of."""
        now, floor = log.now(), self._positions.floor / 1000
        behind, since = now - floor, max(self._told, floor)
        # Who has no floor follows one stream, or begins with what is there.
        if not floor or behind < self._terms.horizon + _BEHIND:
            return None
        try:
            notes = await log.deletions(_NOTES)
        except UnsupportedError:
            is_lost = not self._told and behind > self._terms.kept
        else:
            is_lost = any(note.at > since and self._matters(note, behind) for note in notes)
        if not is_lost:
            return None
        self._told = now
        return FeedGap(GapReason.REMOVED, None, 0, None, self._positions.moment().cursor)

    def _matters(self, note: Deletion, behind: float) -> bool:
        """Whether what it is about may never have been read."""
        enough = {Reason.AGE: self._terms.kept, Reason.FORGOTTEN: math.inf}.get(note.reason, 0.0)
        return note.kind in ("streams", "events") and behind > enough
