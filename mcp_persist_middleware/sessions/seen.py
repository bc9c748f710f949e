"""Sessions of other workers, as they were a moment ago."""

import dataclasses
import time
from collections.abc import Awaitable, Callable

from mcp_persist_middleware.log.whose import Whose
from mcp_persist_middleware.model import SessionKey, SessionRecord
from mcp_persist_middleware.recent import Recent

_MOST, _SECONDS = 10_000, 1.0


class SeenSessions:
    """What the store said of them within the last second.

    Args:
        find: asks the store.
    """

    def __init__(self, find: Callable[[SessionKey], Awaitable[SessionRecord | None]]) -> None:
        self._find = find
        self._seen: Recent[SessionKey, tuple[SessionRecord | None, float]] = Recent(_MOST)
        """Each with the time until which it counts as looked up."""

    async def get(self, key: SessionKey, *, anew: bool) -> SessionRecord | None:
        """A session, which is looked at `anew` or as it was.

        Raises:
            StoreError: the store does not answer.
        """
        record, until = self._seen.pop(key, (None, 0.0))
        if anew or record is None or time.monotonic() >= until:
            record, until = await self._find(key), time.monotonic() + _SECONDS
        if record is not None:
            self._seen[key] = dataclasses.replace(record, initialize=b""), until
        return record

    def erase(self, whose: Whose) -> None:
        """Know nothing of somebody's sessions any more."""
        for key, (record, _) in list(self._seen.items()):
            if record is not None and whose.has_session(key, record.principal):
                del self._seen[key]
