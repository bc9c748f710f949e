"""Which relayed requests a process has had: what is not known here was not run here."""

import time
from collections import OrderedDict

from mcp_persist_middleware.model import RelayRequest

# Longer than a relayed request waits anywhere (seconds), and how many there may be.
_SECONDS, _MOST = 300.0, 100_000


class DedupWindow:
    """The ids of the last relayed requests of one addressee. What may be older than all of them is
    not taken for something that was not run."""

    def __init__(self, seconds: float = _SECONDS, most: int = _MOST) -> None:
        self._seconds = seconds
        self._most = most
        self._had: OrderedDict[bytes, float] = OrderedDict()
        self._forgotten = b""

    def takes(self, request: RelayRequest) -> bool:
        """Whether a relayed request that was claimed is to be served: not a second time, and one
        that would be answered with the word that it was not run only if that is certain."""
        if request.id in self._had or (request.not_executable and request.id <= self._forgotten):
            return False
        now = time.monotonic()
        self._had[request.id] = now
        while len(self._had) > self._most or next(iter(self._had.values())) < now - self._seconds:
            oldest, _ = self._had.popitem(last=False)
            # The ids are ordered by time.
            self._forgotten = max(self._forgotten, oldest)
        return True
