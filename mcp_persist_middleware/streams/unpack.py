"""An event stream that the application compresses, as it was before: its events can be logged."""

import asyncio
import logging
import zlib

from starlette.types import Message, Scope, Send

from mcp_persist_middleware.asgi import EXTENSION
from mcp_persist_middleware.protocol import coding, headers

logger = logging.getLogger(__name__)

_MARK = "unpack"


def hand_in(scope: Scope) -> Scope:
    """The scope of a request whose event stream is read here: the application may compress what
    can be unpacked."""
    raw = headers.without(scope["headers"], headers.LAST_EVENT_ID)
    handed = coding.handed_in(raw)
    if headers.get(handed, b"accept-encoding") is not None:
        scope["extensions"][EXTENSION][_MARK] = True
    return {**scope, "headers": handed}


def unpacked(scope: Scope, send: Send) -> Send:
    """The application's `send` for a request that was handed in so; for any other, its own."""
    is_marked = scope.get("extensions", {}).get(EXTENSION, {}).get(_MARK, False)
    return _Unpacked(send) if is_marked else send


class _Unpacked:
    """Passes everything on but the coding of an event stream."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._unpacking: coding.Unpacking | None = None
        self._is_broken = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            await self._send(self._head(message))
        elif self._unpacking is not None and message["type"] == "http.response.body":
            await self._body(self._unpacking, message)
        else:
            await self._send(message)

    def _head(self, message: Message) -> Message:
        raw = message.get("headers", [])
        plain = headers.without(raw, b"content-encoding", b"content-length")
        is_stream = headers.is_event_stream(message["status"], plain)
        if not (is_stream and coding.is_compressed(raw)):
            return message
        self._unpacking = coding.Unpacking()
        return {**message, "headers": plain}

    async def _body(self, unpacking: coding.Unpacking, message: Message) -> None:
        if self._is_broken:
            return
        try:
            for piece in unpacking.pieces(message.get("body", b"")):
                await self._send({**message, "body": piece, "more_body": True})
                if len(piece) >= coding.PIECE:
                    # Much may come of little: others have their turn meanwhile.
                    await asyncio.sleep(0)
        except zlib.error as error:
            logger.error(
                "MPM-STREAM-07: The application's event stream is not in the coding it says: %s",
                error,
            )
            self._is_broken = True
        if self._is_broken or not message.get("more_body", False):
            await self._send({**message, "body": b"", "more_body": False})
