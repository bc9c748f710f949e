"""What may be said between two events: that the connection lives, and that the client should come
back."""

import asyncio
import contextlib

import anyio
from sse_starlette import ServerSentEvent
from starlette.types import Message, Send

from mcp_persist_middleware.protocol import sse

_SECONDS = 1.0
# A frame keeps the line ends of whoever wrote it; the blank line after it may be ours.
_BLANK = (b"\n\r\n", b"\n\n", b"\r\r\n")
_KEEP_ALIVE = sse.comment("ping")


class KeepAlive(ServerSentEvent):
    """A comment, known on its way by being this very object."""

    def encode(self) -> bytes:
        """The bytes that go on the wire."""
        return _KEEP_ALIVE


class CleanClose:
    """Ends a body in order when its request is cancelled between two events.

    That is how hypercorn ends connections after its graceful timeout, and uvicorn after its own.
    A broken body counts as a failed attempt with the clients; an ended one brings them back.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self._is_open = self._has_begun = False
        self._turn = asyncio.Lock()

    async def send(self, message: Message) -> None:
        """Send, and note whether the body could end after it; a second head is left out.
        sse-starlette sends its keep-alives
        beside the events, also between two messages of a large one: there it would become a part
        of that, and is not needed. Each wait is bounded by `send_timeout` of the message before.
        """
        body = message.get("body", b"")
        async with self._turn:
            if body is _KEEP_ALIVE and not self._is_open:
                return
            if message["type"] == "http.response.start":
                if self._has_begun:
                    return
                self._has_begun = True
            self._is_open = False
            await self._send(message)
            is_whole = message["type"] == "http.response.start" or body.endswith(_BLANK)
            self._is_open = is_whole and message.get("more_body", True)

    async def say(self, body: bytes) -> None:
        """Say one last thing, such as that the client should come back, and end the body. A client
        that takes nothing now, or has gone, is left as it is.
        """
        if not self._is_open:
            return
        with anyio.move_on_after(_SECONDS, shield=True), contextlib.suppress(Exception):
            await self._send({"type": "http.response.body", "body": body, "more_body": True})
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})
