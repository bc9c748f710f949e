"""The connections that wait for what a server may have to say, and which of them end when there are
too many of one caller's."""

import contextlib
from collections.abc import Callable, Iterator

from mcp_persist_middleware import rarely

logger = rarely.logger(__name__)


class Crowd:
    """Of each caller as many as may be; for one more the oldest makes room: some clients never
    close what they listen on."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._waiting: dict[str, dict[object, Callable[[], None]]] = {}
        """How to end each, by whose they are, the oldest first."""

    @contextlib.contextmanager
    def waiting(self, account: str, stop: Callable[[], None]) -> Iterator[None]:
        """One more of a caller's, meanwhile.

        Args:
            stop: ends it in order, soon.
        """
        mine, place = self._waiting.setdefault(account, {}), object()
        mine[place] = stop
        if len(mine) > self._most:
            logger.warning(
                "MPM-STREAM-11: A caller listens on more than max_listeners=%d connections; the "
                "oldest ends",
                self._most,
            )
            mine.pop(next(iter(mine)))()
        try:
            yield
        finally:
            mine.pop(place, None)
            if not mine and self._waiting.get(account) is mine:
                del self._waiting[account]
