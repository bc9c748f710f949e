"""How whoever serves a client learns what answers it: a stream, or nothing of ours."""

import asyncio

from mcp_persist_middleware.streams.state import Opened
from mcp_persist_middleware.wakeups.local import Signal

# How long the head of a stream waits for the first event. It would not arrive any sooner.
_FIRST_EVENT = 0.005


class Opening:
    """`opened` resolves to the stream, or to None when the answer is not ours; it raises what the
    application raised before its answer began.
    """

    def __init__(self) -> None:
        self.opened: asyncio.Future[Opened | None] = asyncio.get_running_loop().create_future()
        self.begun = Signal()
        """Tells that `opened` is done."""
        self._found: Opened | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_over(self) -> bool:
        """Whether it is known what answers, or that nobody asks any more."""
        return self.opened.done()

    @property
    def is_waiting(self) -> bool:
        """Whether there is a stream that waits for its first event."""
        return self._timer is not None

    def found(self, opened: Opened) -> None:
        """There is a stream; the client has it when it is announced."""
        self._found = opened

    def announce_soon(self) -> None:
        """The client's side is made ready while the first event is on its way to the store."""
        self._timer = asyncio.get_running_loop().call_later(_FIRST_EVENT, self.announce)

    def announce(self) -> None:
        """Let the client have the stream, if there is one."""
        self.resolve(self._found)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def resolve(self, opened: Opened | None) -> None:
        """This answers, unless that is known already."""
        if not self.opened.done():
            self.opened.set_result(opened)
            self.begun.notify()

    def fail(self, error: Exception) -> None:
        """The application raised this, and has not answered."""
        self.opened.set_exception(error)
        self.begun.notify()
