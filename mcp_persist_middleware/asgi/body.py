"""A request's body: looked at first and handed on as it came, changed, or read a second time."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

from starlette.types import Message, Receive

# So many messages of a body are kept as they came; more of them become one, for each costs far more
# than its bytes.
_MOST = 256


def keep(messages: list[Message], message: Message) -> None:
    """Keep another message of a body. What has become one grows in place: it is not copied anew
    each time."""
    if len(messages) >= _MOST:
        first = messages[0].get("body", b"")
        whole = first if isinstance(first, bytearray) else bytearray(first)
        whole += b"".join(each.get("body", b"") for each in messages[1:])
        messages[:] = [{"type": "http.request", "body": whole, "more_body": True}]
    messages.append(message)


def handed_on(message: Message) -> Message:
    """A kept message as an application may have it."""
    body = message.get("body")
    return {**message, "body": bytes(body)} if isinstance(body, bytearray) else message


@dataclass(slots=True)
class Body:
    """The messages of a request read so far, kept as they were."""

    messages: list[Message] = field(default_factory=list)
    complete: bool = False
    """All of the body is here."""

    @classmethod
    def of(cls, content: bytes) -> Self:
        """One that is all here."""
        return cls([{"type": "http.request", "body": content, "more_body": False}], complete=True)

    @property
    def content(self) -> bytes:
        """The bytes read so far."""
        if len(self.messages) == 1:
            # As most come.
            return bytes(self.messages[0].get("body", b""))
        return b"".join(message.get("body", b"") for message in self.messages)

    @property
    def size(self) -> int:
        """How many they are."""
        return sum(len(message.get("body", b"")) for message in self.messages)

    @property
    def is_broken_off(self) -> bool:
        """Whether its client left in the middle."""
        return bool(self.messages) and self.messages[-1]["type"] != "http.request"

    def again(self) -> "Body":
        """The same, to be used up by another attempt."""
        return Body(list(self.messages), self.complete)


async def read(receive: Receive, limit: int) -> Body:
    """Read a body up to `limit` bytes; a longer one, or one that breaks off, stays incomplete."""
    kept: list[Message] = []
    size, complete = 0, False
    while size <= limit:
        message = await receive()
        keep(kept, message)
        if message["type"] != "http.request":
            break
        size += len(message.get("body", b""))
        if not message.get("more_body", False):
            complete = size <= limit
            break
    return Body([handed_on(each) for each in kept], complete)


async def read_on(
    body: Body, receive: Receive, take: Callable[[int], bool], seconds: float
) -> bool:
    """Read the rest of a body that is larger than most, as far as there is room: `take` says so of
    as many bytes more. False when there is none left.

    Raises:
        TimeoutError: nothing has come for so long.
    """
    if not take(body.size):
        return False
    kept = body.messages
    # What made it larger may have been its end.
    body.complete = _is_last(kept[-1])
    while not (body.complete or body.is_broken_off):
        async with asyncio.timeout(seconds):
            message = await receive()
        if not take(len(message.get("body", b""))):
            return False
        keep(kept, message)
        body.complete = _is_last(message)
    body.messages = [handed_on(each) for each in kept]
    return True


def _is_last(message: Message) -> bool:
    return message["type"] == "http.request" and not message.get("more_body", False)


def replay(body: Body, receive: Receive) -> Receive:
    """A `receive` that gives the messages again and then goes on with the real one."""
    # Whatever keeps this keeps no message that it has given.
    left = body.messages[::-1]

    async def again() -> Message:
        return left.pop() if left else await receive()

    return again


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
