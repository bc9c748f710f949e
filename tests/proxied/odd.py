"""Shows what clients get of upstreams that misbehave, directly and through the proxy.

An upstream of bytes accepts and never answers, closes at once, sends garbage, one byte a second,
100 MB, gzip, a redirect, a challenge and early hints; to a GET of a path that is not MCP's, and to
a tool call.

Run:     python -m tests.proxied.odd
Expect:  the same status, headers and body as directly, or the error of the proxy that the table
         names; the first byte of a slow body within 2 s; the proxy's memory within 64 MB of what it
         had at rest after the large bodies; exit code 0.
"""

import argparse
import asyncio
import gzip
import hashlib
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.proxied.processes import proxy, serving

_LARGE = 100 * 1024 * 1024
_HEAD_TIMEOUT = 3.0
_LONGEST = 120.0
_MOST_MEMORY = 64 * 1024 * 1024
_FIRST_BYTE = 2.0
_OF_THE_CONNECTION = (b"connection", b"date", b"server", b"transfer-encoding")
_ZIPPED = gzip.compress(b'{"jsonrpc":"2.0","id":1,"result":{}}')

_HEADS = {
    "1 byte/s": b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 6\r\n\r\n",
    "100 MB": b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    % _LARGE,
    "gzip": b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-encoding: gzip\r\n"
    b"content-length: %d\r\n\r\n%s" % (len(_ZIPPED), _ZIPPED),
    "302": b"HTTP/1.1 302 Found\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n",
    "401": b'HTTP/1.1 401 Unauthorized\r\nwww-authenticate: Bearer realm="a"\r\n'
    b"content-length: 3\r\n\r\nno\n",
    "early hints": b"HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n"
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}",
    "garbage": b"SSH-2.0-OpenSSH_9.6\r\nand so on\r\n\r\n",
    "closes": b"",
    "never": b"",
}
_ANSWERED_FOR = {"garbage": 502, "closes": 502, "never": 504}
"""What the proxy answers where the upstream does not."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One response: what of it has to be the same, and when its body began."""

    status: int
    headers: tuple[bytes, ...]
    digest: str
    size: int
    first_byte: float
    text: bytes


async def _upstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        name = head.split(b"x-oddity: ")[1].split(b"\r\n")[0].decode()
        writer.write(_HEADS[name])
        match name:
            case "1 byte/s":
                for byte in b"[1, 2]":
                    writer.write(bytes([byte]))
                    await writer.drain()
                    await asyncio.sleep(1)
            case "100 MB":
                for _ in range(_LARGE // 65_536):
                    writer.write(b"x" * 65_536)
                    await writer.drain()
            case "never":
                await reader.read()
        await writer.drain()
    except (ConnectionError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.close()


async def _seen(port: int, name: str, *, is_call: bool) -> Seen | None:
    """The response; None where there is none."""
    body = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t","arguments":{}}}'
    line = b"POST /mcp" if is_call else b"GET /other"
    more = b"mcp-protocol-version: 2025-11-25\r\naccept: application/json, text/event-stream\r\n"
    more += b"content-type: application/json\r\ncontent-length: %d\r\n" % len(body)
    head = b"%s HTTP/1.1\r\nhost: 127.0.0.1:%d\r\nconnection: close\r\nx-oddity: %s\r\n%s\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(head % (line, port, name.encode(), more if is_call else b""))
        writer.write(body if is_call else b"")
        async with asyncio.timeout(_LONGEST if name != "never" else 2 * _HEAD_TIMEOUT):
            return await _read(reader)
    except (ConnectionError, asyncio.IncompleteReadError, TimeoutError, ValueError):
        return None
    finally:
        writer.close()


async def _read(reader: asyncio.StreamReader) -> Seen:
    status = 100
    while status < 200:
        first, *pairs = (await reader.readuntil(b"\r\n\r\n")).rstrip(b"\r\n").split(b"\r\n")
        if not first.startswith(b"HTTP/1.1 "):
            raise ValueError(first)
        status = int(first.split(b" ")[1])
    lower = [pair.lower() for pair in pairs]
    chunked = b"transfer-encoding: chunked" in lower
    length = next((int(pair[16:]) for pair in lower if pair.startswith(b"content-length: ")), None)
    digest, size, began, text, begin = hashlib.sha256(), 0, 0.0, b"", time.monotonic()
    async for piece in _pieces(reader, length, chunked=chunked):
        began = began or time.monotonic() - begin
        digest.update(piece)
        size += len(piece)
        text = text or piece[:500]
    kept = sorted(pair for pair in lower if pair.split(b":")[0] not in _OF_THE_CONNECTION)
    return Seen(status, tuple(kept), digest.hexdigest(), size, began, text)


async def _pieces(
    reader: asyncio.StreamReader, length: int | None, *, chunked: bool
) -> AsyncIterator[bytes]:
    while chunked and (size := int(await reader.readline(), 16)):
        yield (await reader.readexactly(size + 2))[:-2]
    left = length if length is not None else sys.maxsize
    while not chunked and left and (piece := await reader.read(min(left, 65_536))):
        left -= len(piece)
        yield piece
    if length is not None and left:
        raise asyncio.IncompleteReadError(b"", left)


def _verdict(name: str, direct: Seen | None, ours: Seen | None) -> str:
    """What is wrong; empty when nothing is."""
    if ours is None:
        return "no answer"
    if name == "1 byte/s" and ours.first_byte > _FIRST_BYTE:
        return f"the first byte came after {ours.first_byte:.1f} s"
    if (status := _ANSWERED_FOR.get(name)) is not None:
        said = b"HTTP status %d" % status
        return "" if ours.status == status or said in ours.text else f"{ours}"
    same = ("status", "headers", "digest", "size")
    different = [each for each in same if getattr(direct, each) != getattr(ours, each)]
    return f"different: {different} {direct} {ours}" if different else ""


@asynccontextmanager
async def _running() -> AsyncIterator[int]:
    async with await asyncio.start_server(_upstream, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


async def _all() -> bool:
    right = True
    with tempfile.TemporaryDirectory(prefix="proxied-") as directory:
        async with _running() as port:
            more = ("--head-timeout", str(_HEAD_TIMEOUT))
            front = proxy(Path(directory), f"http://127.0.0.1:{port}/mcp", more=more)
            async with serving(front):
                rest = front.resident()
                for name in _HEADS:
                    for is_call in (False, True):
                        direct = await _seen(port, name, is_call=is_call)
                        ours = await _seen(front.port, name, is_call=is_call)
                        wrong = _verdict(name, direct, ours)
                        right &= not wrong
                        told = [f"{each.status}" if each else "nothing" for each in (direct, ours)]
                        kind = "call" if is_call else "GET"
                        note = wrong or ("as direct" if direct else "the proxy's error")
                        print(f"{name:<12} {kind:<5} {' -> '.join(told):<18} {note}", flush=True)
                grown = front.resident() - rest
    print(f"the proxy's memory: {rest >> 20} MB at rest, {grown / 2**20:+.1f} MB afterwards")
    return right and grown <= _MOST_MEMORY


def main() -> int:
    argparse.ArgumentParser(prog="tests.proxied.odd").parse_args()
    right = asyncio.run(_all())
    print("as expected" if right else "NOT as expected")
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
