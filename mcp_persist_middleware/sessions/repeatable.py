"""A request's body, which may be looked at, changed, or read a second time."""

from typing import Self

from starlette.types import Message, Receive


class Repeatable:
    """What a client sends, kept up to `limit` bytes. A longer body passes once, whole.

    Empty messages are not kept: over HTTP/2 a client may send as many as it likes.
    """

    def __init__(self, receive: Receive, limit: int) -> None:
        self._receive = receive
        self._limit = limit
        self._kept = bytearray()
        self._is_complete = False
        self._waiting: list[Message] = []
        """What was read ahead, for the application."""
        self.can_repeat = True
        """Everything that was read is still here."""

    @property
    def body(self) -> bytes:
        """What was read and is kept of the body."""
        return bytes(self._kept)

    async def receive(self) -> Message:
        """The next message for the application."""
        if self._waiting:
            return self._waiting.pop(0)
        message = await self._receive()
        if message["type"] == "http.request":
            self._keep(message)
        return message

    async def whole(self) -> bytes | None:
        """The body, all of it; None when it is too large to be kept, or broke off. The
        application gets what was read all the same."""
        while self.can_repeat and not self._is_complete:
            message = await self._receive()
            if message["type"] != "http.request":
                self._waiting = [self._part(), message]
                return None
            before = bytes(self._kept) if self._grows_too_large(message) else b""
            self._keep(message)
            if not self.can_repeat:
                first = {"type": "http.request", "body": before, "more_body": True}
                self._waiting = [first, message]
        if not self.can_repeat:
            return None
        self.again()
        return self.body

    def again(self) -> Self:
        """From the beginning."""
        self._waiting = [self._part()] if self._kept or self._is_complete else []
        return self

    def replace(self, body: bytes) -> None:
        """The application gets another body instead; it was all here."""
        self._waiting = [{"type": "http.request", "body": body, "more_body": False}]

    def forget(self) -> None:
        """It will not be repeated."""
        self._kept, self.can_repeat = bytearray(), False

    def _part(self) -> Message:
        more = not self._is_complete
        return {"type": "http.request", "body": self.body, "more_body": more}

    def _grows_too_large(self, message: Message) -> bool:
        return len(self._kept) + len(message.get("body", b"")) > self._limit

    def _keep(self, message: Message) -> None:
        self._is_complete = not message.get("more_body", False)
        if self._grows_too_large(message):
            self.forget()
        elif self.can_repeat:
            self._kept += message.get("body", b"")
