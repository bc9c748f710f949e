"""How much of something may be held at once: by everybody, and by each owner."""

import contextlib
from collections import Counter
from collections.abc import Hashable, Iterator


class Quota:
    """What everybody holds, and each owner.

    Args:
        most: what all may hold together.
        of_one: what one owner may.
    """

    def __init__(self, most: float, of_one: int) -> None:
        self._most = most
        self.of_one = of_one
        self._taken: Counter[Hashable] = Counter()
        # Of all together: there may be many owners, and each thing asks.
        self._sum = 0

    @contextlib.contextmanager
    def of(self, owner: Hashable) -> Iterator["Share"]:
        """A share of the owner's, of nothing yet, which is given back at the end."""
        share = Share(self, owner)
        try:
            yield share
        finally:
            self._sum -= share.size
            self._taken[owner] -= share.size
            if not self._taken[owner]:
                del self._taken[owner]

    def take(self, owner: Hashable, size: int) -> bool:
        """So much more, if there is room."""
        if self._taken[owner] + size > self.of_one or self._sum + size > self._most:
            return False
        self._sum += size
        self._taken[owner] += size
        return True


class Share:
    """What one of an owner's things holds."""

    def __init__(self, quota: Quota, owner: Hashable) -> None:
        self._quota = quota
        self._owner = owner
        self.size = 0

    def take(self, size: int = 1) -> bool:
        """So much more; False when there is no room for it."""
        if not self._quota.take(self._owner, size):
            return False
        self.size += size
        return True
