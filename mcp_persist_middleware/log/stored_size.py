"""How much of a stream the store has, as its writer knows it."""

from mcp_persist_middleware.model import StreamWrite


class StoredSize:
    """Events and bytes of one stream, and what of them has to go so that more fit.

    Args:
        max_events: how many a stream may keep.
        max_bytes: how many bytes of frames.
    """

    __slots__ = ("_bytes", "_events", "_max_bytes", "_max_events")

    def __init__(self, max_events: int, max_bytes: int) -> None:
        self._max_events, self._max_bytes = max_events, max_bytes
        self._events = self._bytes = 0

    def begin(self, events: int, size: int) -> None:
        """So much is there already."""
        self._events, self._bytes = events, size

    def excess(self, coming: int, bytes_coming: int) -> int:
        """How many events must go so that the limits hold; a tenth more, to do it rarely."""
        events, size = self._events + coming, self._bytes + bytes_coming
        share = max(events / self._max_events, size / self._max_bytes)
        return 0 if share <= 1 else int(events * (1 - 0.9 / share))

    def add(self, write: StreamWrite) -> None:
        """The store has done it."""
        self._events += len(write.events)
        self._bytes += sum(len(event.frame) for event in write.events)
        if write.trim and self._events:
            # The bytes that went are not known; on average they are as large as those that stay.
            share = max(0.0, 1 - write.trim / self._events)
            self._events = int(self._events * share)
            self._bytes = int(self._bytes * share)
