"""What an application is lent of a request, and holds nothing of afterwards.

An application leaves circles behind: sse-starlette's tasks are cancelled at the end of each stream,
and each holds its error, with all frames that it has passed. What hangs on such a circle is not
freed before the collector comes around: held by it, all that we know of each call would be looked
at several times before.
"""

import asyncio

from starlette.types import Message, Receive, Send

from mcp_persist_middleware.asgi.client import gone, nowhere


class LentRequest:
    """The two ends of a request, until they are taken back."""

    __slots__ = ("_receive", "_send")

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send

    async def receive(self) -> Message:
        """What there is to hear; that its client has gone, when it is over."""
        try:
            return await self._receive()
        except asyncio.CancelledError as error:
            # Whoever keeps it keeps no frame of ours.
            raise error.with_traceback(None)  # noqa: B904

    async def send(self, message: Message) -> None:
        """Answer; what comes too late goes nowhere, as with any server."""
        await self._send(message)

    def take_back(self) -> None:
        """The application has returned."""
        self._receive, self._send = gone, nowhere
