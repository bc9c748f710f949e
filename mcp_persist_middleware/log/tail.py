"""The newest events of a stream that readers here may see, so that they need not ask the store."""

from collections.abc import Iterator, Sequence

from mcp_persist_middleware.model import Event, EventKind


class Tail:
    """A bounded run of events, the oldest of which go first.

    Args:
        max_events: how many it keeps.
        max_bytes: how many bytes of frames it keeps; one event may be larger.
    """

    __slots__ = ("_bytes", "_events", "_max_bytes", "_max_events", "keeps_answers")

    def __init__(self, max_events: int, max_bytes: int) -> None:
        # Not a deque: that takes room for 64 of them while there is none, and most streams idle.
        self._events: list[Event] = []
        self._bytes = 0
        self._max_events, self._max_bytes = max_events, max_bytes
        self.keeps_answers = False
        """Of a stream that is nowhere else what goes is lost: answers stay, however many."""

    def __iter__(self) -> Iterator[Event]:
        return iter(self._events)

    def extend(self, events: Sequence[Event]) -> None:
        """Add the events that follow."""
        self._events.extend(events)
        self._bytes += sum(len(event.frame) for event in events)
        if self.keeps_answers:
            while self._exceeds(0) and self._drop_notice():
                pass
            return
        gone = 0
        while self._exceeds(gone):
            self._bytes -= len(self._events[gone].frame)
            gone += 1
        del self._events[:gone]

    def clear(self) -> None:
        """Nobody reads it."""
        self._events.clear()
        self._bytes = 0

    def after(self, sequence: int) -> list[Event]:
        """The events with a higher number."""
        found: list[Event] = []
        for event in reversed(self._events):
            if event.sequence <= sequence:
                break
            found.append(event)
        found.reverse()
        return found

    def _exceeds(self, gone: int) -> bool:
        """Whether it is too much, without so many of the oldest, whose bytes are not counted."""
        left = len(self._events) - gone
        return left > self._max_events or (left > 0 and self._bytes > self._max_bytes)

    def _drop_notice(self) -> bool:
        """Drop the oldest event that is no answer; whether there was one."""
        for index, event in enumerate(self._events):
            if event.kind <= EventKind.MESSAGE:
                del self._events[index]
                self._bytes -= len(event.frame)
                return True
        return False
