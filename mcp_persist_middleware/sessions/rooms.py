"""Room for the bodies that are larger than most, while they travel to another worker."""

import contextlib
from collections import Counter
from collections.abc import Iterator


class Rooms:
    """How many bytes of large bodies are held at once: of everybody, and of each owner."""

    def __init__(self, most: int, of_one: int) -> None:
        self._most = most
        self.of_one = of_one
        self._taken: Counter[str] = Counter()

    @contextlib.contextmanager
    def of(self, owner: str) -> Iterator["Room"]:
        """Room for one body, which is given back at the end."""
        room = Room(self, owner)
        try:
            yield room
        finally:
            self._taken[owner] -= room.size
            if not self._taken[owner]:
                del self._taken[owner]

    def take(self, owner: str, size: int) -> bool:
        """So many bytes more, if there is room."""
        if self._taken[owner] + size > self.of_one or self._taken.total() + size > self._most:
            return False
        self._taken[owner] += size
        return True


class Room:
    """That of one body."""

    def __init__(self, rooms: Rooms, owner: str) -> None:
        self._rooms = rooms
        self._owner = owner
        self.size = 0

    def take(self, size: int) -> bool:
        """So many bytes more; False when there is no room for them."""
        if not self._rooms.take(self._owner, size):
            return False
        self.size += size
        return True
