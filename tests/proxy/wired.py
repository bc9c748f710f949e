"""A server of bytes: it says what a test wrote down, and keeps what it was asked."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Asked:
    """One request as it stood on the wire."""

    line: str
    headers: list[tuple[str, str]]
    body: bytes

    def all(self, name: str) -> list[str]:
        """Every value of a header."""
        return [value for key, value in self.headers if key.lower() == name]


@dataclass
class Wired:
    """The running server."""

    port: int = 0
    asked: list[Asked] = field(default_factory=list)
    connections: int = 0
    left: asyncio.Event = field(default_factory=asyncio.Event)
    """A client has closed its connection before its answer was whole."""


async def _request(reader: asyncio.StreamReader, ahead: bytes = b"") -> Asked:
    head = (ahead + await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    line, *pairs = head.rstrip("\r\n").split("\r\n")
    split = [pair.partition(":") for pair in pairs]
    asked = Asked(line, [(name, value.strip()) for name, _, value in split], b"")
    if asked.all("transfer-encoding"):
        while size := int(await reader.readline(), 16):
            asked.body += await reader.readexactly(size)
            await reader.readline()
        await reader.readline()
    elif length := asked.all("content-length"):
        asked.body = await reader.readexactly(int(length[0]))
    return asked


@contextlib.asynccontextmanager
async def wired(
    answer: Answer | bytes, *, port: int = 0, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Wired]:
    """A server that answers every request the same. Bytes are written at once, and the connection
    is closed behind them when they say so."""
    server = Wired()

    async def write(writer: asyncio.StreamWriter) -> None:
        assert isinstance(answer, bytes)
        writer.write(answer)
        await writer.drain()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server.connections += 1
        ahead = b""
        try:
            while True:
                server.asked.append(await _request(reader, ahead))
                answering = asyncio.ensure_future(
                    write(writer) if isinstance(answer, bytes) else answer(writer)
                )
                hearing = asyncio.ensure_future(reader.read(1))
                await asyncio.wait({answering, hearing}, return_when=asyncio.FIRST_COMPLETED)
                if not answering.done():
                    answering.cancel()
                    server.left.set()
                    return
                # Until it has ended nobody else can read; it may have a byte of the next request.
                hearing.cancel()
                await asyncio.wait({hearing})
                ahead = b"" if hearing.cancelled() else hearing.result()
                if isinstance(answer, bytes) and b"connection: close" in answer:
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", port, ssl=tls)
    server.port = listener.sockets[0].getsockname()[1]
    async with listener:
        yield server
        listener.close_clients() if hasattr(listener, "close_clients") else None
