"""A request body that can be looked at first and handed on as it came."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from starlette.types import Message, Receive

from mcp_persist_middleware.attempt import handed_on, keep


@dataclass(slots=True)
class Body:
    """The messages of a request read so far, kept as they were."""

    messages: list[Message] = field(default_factory=list)
    complete: bool = False
    """All of the body is here."""

    @property
    def content(self) -> bytes:
        """The bytes read so far."""
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
    messages = iter(body.messages)

    async def again() -> Message:
        for message in messages:
            return message
        return await receive()

    return again
