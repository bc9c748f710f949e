"""What has become of a request so far: whether it may still be begun anew, or go on without us."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar, Token

from starlette.types import Message, Receive, Send

from mcp_persist_middleware.asgi.body import handed_on, keep
from mcp_persist_middleware.asgi.client import gone, nowhere


class Attempt:
    """A request whose body may be read again until somebody has it.

    It is spent when the application has been called with it, when it is on its way to another
    worker, or when a part of an answer has been sent: from then on nobody may run it once more.
    """

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._read: list[Message] = []
        self._next = 0
        self.is_spent = False
        self.is_answered = False
        self._token: Token[Attempt | None]

    def spend(self) -> None:
        """Somebody has it."""
        if not self.is_spent:
            self.is_spent = True
            del self._read[: self._next]
            self._next = 0

    def rewind(self) -> None:
        """Read it from the beginning."""
        self._next = 0

    async def receive(self) -> Message:
        """The next message, which may be one that was read before."""
        if self._next < len(self._read):
            self._next += 1
            return handed_on(self._read[self._next - 1])
        message = await self._receive()
        while _is_nothing(message):
            # Over HTTP/2 a client may send as many as it likes.
            message = await self._receive()
        if not self.is_spent:
            keep(self._read, message)
            self._next = len(self._read)
        return message

    async def send(self, message: Message) -> None:
        """Answer it."""
        self.spend()
        self.is_answered = True
        await self._send(message)

    # What runs in this context, or in a copy of it, runs for this request.

    def __enter__(self) -> None:
        self._token = _current.set(self)

    def __exit__(self, *_: object) -> None:
        _current.reset(self._token)
        # A session that begins here keeps its context, and with it this, but no connection.
        self._receive, self._send = gone, nowhere
        self._read.clear()


def _is_nothing(message: Message) -> bool:
    is_request = message["type"] == "http.request"
    return is_request and message.get("more_body", False) and not message.get("body")


_current: ContextVar[Attempt | None] = ContextVar("mcp_persist_attempt", default=None)


def spend() -> None:
    """The request that runs in this context is about to be handed on, and cannot be begun anew."""
    attempt = _current.get()
    if attempt is not None:
        attempt.spend()


@contextlib.contextmanager
def beside() -> Iterator[None]:
    """What runs in this context is a question of our own."""
    token = _current.set(None)
    try:
        yield
    finally:
        _current.reset(token)
