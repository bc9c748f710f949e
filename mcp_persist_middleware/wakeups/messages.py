"""What wake-ups tell beside that something was committed, where a transport lets them."""

from collections import deque

# Of one topic so many messages are kept, and so many bytes of all topics: who is further behind
# looks into the store.
_MESSAGES, _BYTES = 64, 16 * 1024 * 1024


class TopicMessages:
    """The newest messages of each topic that somebody waits for, in the order of their coming. Any
    may be missing."""

    def __init__(self) -> None:
        self._messages: dict[bytes, deque[bytes]] = {}
        self._size = 0

    def add(self, topic: bytes, message: bytes) -> None:
        """One more."""
        if self._size + len(message) > _BYTES:
            self.clear()
        mine = self._messages.setdefault(topic, deque())
        mine.append(message)
        self._size += len(message)
        if len(mine) > _MESSAGES:
            self._size -= len(mine.popleft())

    def of(self, topic: bytes) -> list[bytes]:
        """Those of a topic."""
        return list(self._messages.get(topic, ()))

    def drop_first(self, topic: bytes, count: int) -> None:
        """Nobody needs the first so many of a topic any more."""
        mine = self._messages.get(topic, deque())
        for _ in range(min(count, len(mine))):
            self._size -= len(mine.popleft())

    def forget(self, topic: bytes) -> None:
        """Nobody waits for a topic any more."""
        self._size -= sum(map(len, self._messages.pop(topic, ())))

    def clear(self) -> None:
        """Some were missed."""
        self._messages.clear()
        self._size = 0
