"""What a client may name, told apart in metrics as far as that stays bounded: each value of an
attribute is a time series for as long as the process lives."""

from collections.abc import Iterable

OTHER = "_OTHER"
"""OpenTelemetry's word for what is not told apart."""

_MOST, _DOUBTFUL, _LONGEST = 100, 20, 128


class BoundedValues:
    """The values of one attribute that are told apart: those that came first.

    Args:
        known: those that are told apart in any case.
        most: how many others are.
    """

    def __init__(self, known: Iterable[str] = (), most: int = _MOST) -> None:
        self._known = frozenset(known)
        self._proven: set[str] = set()
        self._doubtful: set[str] = set()
        self._most = most

    def told(self, value: str, *, is_proven: bool = True) -> str:
        """The value, or `OTHER`.

        Args:
            is_proven: whether there is such a thing, as far as an answer shows: who makes names up
                takes few places, and none from those that there are.
        """
        if value in self._known or value in self._proven:
            return value
        if len(value) > _LONGEST:
            return OTHER
        if is_proven:
            self._doubtful.discard(value)
            return value if self._added(self._proven, value, self._most) else OTHER
        if value in self._doubtful or self._added(self._doubtful, value, _DOUBTFUL):
            return value
        return OTHER

    @staticmethod
    def _added(values: set[str], value: str, most: int) -> bool:
        if len(values) >= most:
            return False
        values.add(value)
        return True
