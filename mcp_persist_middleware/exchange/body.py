"""A request body that can be looked at first and handed on as it came."""

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


def replay(body: Body, receive: Receive) -> Receive:
    """A `receive` that gives the messages again and then goes on with the real one."""
    messages = iter(body.messages)

    async def again() -> Message:
        for message in messages:
            return message
        return await receive()

    return again
