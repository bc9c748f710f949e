"""A raw HTTP and SSE reader that hides nothing: every frame as it was sent, any byte resettable.

Official clients repair or drop what they are given; a test that counts exactly once needs to see
the wire. One connection for each request, every wait bounded.
"""

import asyncio
import json
import re
import socket
import struct
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any

TIMEOUT = 20.0
_EVENT_END = re.compile(rb"\r\n\r\n|\n\n")
_NO_BODY = (204, 304)


@dataclass(frozen=True, slots=True)
class Frame:
    """One SSE frame as it stood on the wire; a field that was not sent is None."""

    id: str | None = None
    event: str | None = None
    data: str | None = None
    retry: int | None = None
    comment: str | None = None

    @property
    def message(self) -> Any:
        """The JSON-RPC message, or None for priming events and comments."""
        return json.loads(self.data) if self.data else None

    @property
    def progress(self) -> int | None:
        """The progress value, if this frame is a progress notification."""
        message = self.message
        if isinstance(message, dict) and message.get("method") == "notifications/progress":
            return int(message["params"]["progress"])
        return None

    @property
    def is_response(self) -> bool:
        """Whether this frame answers a request, by a result or an error."""
        message = self.message
        return isinstance(message, dict) and ("result" in message or "error" in message)


class Response:
    """A response whose body has not been read yet."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        status: int,
        headers: list[tuple[str, str]],
    ) -> None:
        self.status = status
        self.raw_headers = headers
        self.headers = dict(headers)
        self._reader = reader
        self._writer = writer
        self._held = bytearray()
        self._ended = status in _NO_BODY

    @property
    def is_stream(self) -> bool:
        """Whether the body is an event stream."""
        return self.headers.get("content-type", "").startswith("text/event-stream")

    async def pieces(self, timeout: float = TIMEOUT) -> AsyncGenerator[bytes, None]:
        """The body in the pieces in which it arrives."""
        chunked = "chunked" in self.headers.get("transfer-encoding", "")
        length = self.headers.get("content-length")
        while not self._ended:
            async with asyncio.timeout(timeout):
                if chunked:
                    size = int((await self._reader.readuntil(b"\n")).split(b";")[0], 16)
                    piece = (await self._reader.readexactly(size + 2))[:-2]
                elif length is not None:
                    piece = await self._reader.readexactly(int(length))
                else:
                    piece = await self._reader.read(65_536)
            self._ended = not piece or (length is not None and not chunked)
            if piece:
                yield piece

    async def body(self, timeout: float = TIMEOUT) -> bytes:
        """The whole body."""
        return b"".join([piece async for piece in self.pieces(timeout)])

    async def frames(self, timeout: float = TIMEOUT) -> AsyncGenerator[Frame, None]:
        """The frames of an event stream; ends when the server ends the body in order.

        May be left and entered again: nothing that was read is lost.

        Raises:
            TimeoutError: nothing arrived for `timeout` seconds.
            asyncio.IncompleteReadError, ConnectionError: the connection broke.
        """
        async with aclosing(self.pieces(timeout)) as pieces:
            searched = 0
            while True:
                while (end := _EVENT_END.search(self._held, searched)) is not None:
                    raw, searched = bytes(self._held[: end.start()]), 0
                    del self._held[: end.end()]
                    yield parse_frame(raw)
                searched = max(0, len(self._held) - 3)
                if (piece := await anext(pieces, None)) is None:
                    return
                self._held += piece

    async def take(self, count: int, timeout: float = TIMEOUT) -> list[Frame]:
        """The next `count` frames that carry data; a stream that ends before gives fewer."""
        taken: list[Frame] = []
        async with aclosing(self.frames(timeout)) as frames:
            async for frame in frames:
                taken += [frame] if frame.data else []
                if len(taken) == count:
                    break
        return taken

    def reset(self) -> None:
        """End the connection with a reset, as a client that vanished."""
        if not self._writer.transport.is_closing():
            connection = self._writer.get_extra_info("socket")
            linger = struct.pack("ii", 1, 0)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self._writer.transport.abort()

    def close(self) -> None:
        """End the connection in order."""
        self._writer.close()


def parse_frame(raw: bytes) -> Frame:
    """One frame without its closing blank line. Data lines are joined, unknown fields dropped."""
    fields: dict[str, str] = {}
    for line in raw.decode().replace("\r\n", "\n").split("\n"):
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        name = name or "comment"
        fields[name] = f"{fields[name]}\n{value}" if name in fields else value
    retry = int(fields["retry"]) if "retry" in fields else None
    return Frame(
        fields.get("id"), fields.get("event"), fields.get("data"), retry, fields.get("comment")
    )


async def request(
    port: int,
    method: str,
    path: str = "/mcp",
    *,
    headers: Mapping[str, str] | None = None,
    body: bytes = b"",
    receive_buffer: int | None = None,
    timeout: float = TIMEOUT,
) -> Response:
    """Send one request on a connection of its own and read the response's head.

    `receive_buffer` bounds what the kernel takes for a client that then stops reading.
    """
    connection = socket.socket()
    connection.setblocking(False)
    if receive_buffer is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    async with asyncio.timeout(timeout):
        await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", port))
        limit = receive_buffer or 1 << 25
        reader, writer = await asyncio.open_connection(sock=connection, limit=limit)
        sent = {"host": f"127.0.0.1:{port}", "connection": "close"} | (headers or {})
        lines = [f"{method} {path} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in sent.items()]
        if body or method == "POST":
            lines.append(f"content-length: {len(body)}")
        writer.write("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
        try:
            await writer.drain()
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        except BaseException:
            writer.transport.abort()
            raise
    status, *pairs = head.rstrip("\r\n").split("\r\n")
    entries = [entry.partition(":") for entry in pairs]
    named = [(name.lower(), value.strip()) for name, _, value in entries]
    return Response(reader, writer, int(status.split(" ")[1]), named)


@asynccontextmanager
async def requested(*given: Any, **options: Any) -> AsyncIterator[Response]:
    """`request`, with the connection reset at the end."""
    response = await request(*given, **options)
    try:
        yield response
    finally:
        response.reset()
