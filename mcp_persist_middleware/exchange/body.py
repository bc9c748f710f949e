"""A request body that can be looked at first and handed on as it came."""

from dataclasses import dataclass, field

from starlette.types import Message, Receive


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


# So many are kept as they came; more of them become one, for each costs far more than its bytes.
_MOST = 256


async def read(receive: Receive, limit: int) -> Body:
    """Read a body up to `limit` bytes; a longer one, or one that breaks off, stays incomplete."""
    body, size = Body(), 0
    while size <= limit:
        message = await receive()
        if len(body.messages) >= _MOST:
            whole = {"type": "http.request", "body": body.content, "more_body": True}
            body.messages = [whole]
        body.messages.append(message)
        if message["type"] != "http.request":
            return body
        size += len(message.get("body", b""))
        if not message.get("more_body", False):
            body.complete = size <= limit
            return body
    return body


def replay(body: Body, receive: Receive) -> Receive:
    """A `receive` that gives the messages again and then goes on with the real one."""
    messages = iter(body.messages)

    async def again() -> Message:
        for message in messages:
            return message
        return await receive()

    return again
