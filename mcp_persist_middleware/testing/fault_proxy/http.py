"""Reads HTTP/1.1 messages just far enough that the proxy can forward them piece by piece."""

import asyncio
from collections.abc import AsyncIterator, Mapping

_PIECE = 65_536


def head(raw: bytes) -> tuple[str, dict[str, str]]:
    """The first line, and the headers with names in lower case."""
    line, *lines = raw.decode("latin-1").rstrip("\r\n").split("\r\n")
    pairs = (entry.partition(":") for entry in lines)
    return line, {name.lower(): value.strip() for name, _, value in pairs}


async def body(
    reader: asyncio.StreamReader,
    headers: Mapping[str, str],
    *,
    empty: bool,
    rate: float | None = None,
) -> AsyncIterator[tuple[bytes, bytes]]:
    """A message's body as it arrives: framing bytes, and the payload that follows them.

    `empty`: a message that names no length has no body; else it lasts until the connection ends.
    """
    if "chunked" in headers.get("transfer-encoding", "").lower():
        while size := int((line := await reader.readuntil(b"\n")).split(b";")[0], 16):
            async for piece in _pieces(reader, size, rate):
                yield line, piece
                line = b""
            yield await reader.readexactly(2), b""
        while (trailer := await reader.readuntil(b"\n")) != b"\r\n":
            line += trailer
        yield line + trailer, b""
    elif "content-length" in headers or empty:
        async for piece in _pieces(reader, int(headers.get("content-length", "0")), rate):
            yield b"", piece
    else:
        while piece := await _read(reader, _PIECE, rate):
            yield b"", piece


async def _pieces(
    reader: asyncio.StreamReader, size: int, rate: float | None
) -> AsyncIterator[bytes]:
    while size:
        piece = await _read(reader, min(size, _PIECE), rate)
        if not piece:
            raise asyncio.IncompleteReadError(b"", size)
        size -= len(piece)
        yield piece


async def _read(reader: asyncio.StreamReader, most: int, rate: float | None) -> bytes:
    if rate is None:
        return await reader.read(most)
    if rate == 0:
        await asyncio.Event().wait()
    await asyncio.sleep(1 / rate)
    return await reader.read(1)
