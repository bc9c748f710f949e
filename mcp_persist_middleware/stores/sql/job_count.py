"""How many jobs there are, known for a while without counting them."""

import time

# Of the room that was counted, the part that each of many workers may fill until it counts again.
_SHARE, _COUNTED_SECONDS = 100, 30.0
# Where there is none each new one takes the place of an old one: for so long (seconds) at most,
# for retention makes room too.
_FULL_SECONDS = 1.0


class JobCount:
    """How many jobs there are, as it was when they were counted."""

    def __init__(self, most: int = 0, there: int = 0) -> None:
        self._most = most
        self._is_full = there >= most
        self._excess = there - most
        self._left = max(1, (most - there) // _SHARE)
        self._until = time.monotonic() + (_FULL_SECONDS if self._is_full else _COUNTED_SECONDS)

    def excess(self, most: int) -> int | None:
        """How many have to go for a new one under this bound; None where that is to be counted."""
        if self._most != most or time.monotonic() > self._until:
            return None
        if self._is_full:
            excess, self._excess = self._excess + 1, 0
            return excess
        self._left -= 1
        return 0 if self._left >= 0 else None
