"""A client that costs next to nothing: it notes bytes and their arrival, and reads them later."""

import asyncio
import json
import re
import time
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

TIMEOUT = 120.0
_VERSION, _MODERN = "2025-11-25", "2026-07-28"
_CLIENT = {"name": "benchmark", "version": "1"}
_META = "io.modelcontextprotocol/"
_STAMP = re.compile(rb'"message":"(\d+)"')
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_ID = re.compile(rb"\nid: *([^\r\n]+)")
_SESSION = re.compile(rb"\r\nmcp-session-id: *([^\r\n]+)", re.IGNORECASE)


class BenchmarkError(Exception):
    """A server did not do what a measure needs; the number would be worth nothing."""


@dataclass(slots=True)
class Answer:
    """A response as it came in: its bytes, and for each receipt its end and its time."""

    sent: int
    data: bytearray = field(default_factory=bytearray)
    ends: list[int] = field(default_factory=list)
    times: list[int] = field(default_factory=list)
    head: int = 0
    chunked: bool = False
    length: int = 0

    def take(self, data: bytes) -> bool:
        """Note a receipt; True when the response is complete."""
        self.times.append(time.monotonic_ns())
        self.data += data
        self.ends.append(len(self.data))
        if not self.head and not self._read_head():
            return False
        if self.chunked:
            return self.data.endswith(b"\r\n0\r\n\r\n")
        return len(self.data) - self.head >= self.length

    def _read_head(self) -> bool:
        end = self.data.find(b"\r\n\r\n")
        if end < 0:
            return False
        self.head = end + 4
        head = bytes(self.data[: end + 2])
        self.chunked = b"chunked" in head.lower()
        found = _LENGTH.search(head)
        self.length = int(found[1]) if found else 0
        return True

    @property
    def status(self) -> int:
        """The HTTP status."""
        return int(self.data[9:12])

    @property
    def session(self) -> bytes:
        """The session id in the head."""
        found = _SESSION.search(self.data, 0, self.head)
        if found is None:
            raise BenchmarkError(f"no session id in {bytes(self.data[:500])!r}")
        return found[1]

    def body(self) -> Iterator[tuple[int, bytes]]:
        """The body's chunks and where in `data` each begins."""
        if not self.chunked:
            yield self.head, bytes(self.data[self.head :])
            return
        position = self.head
        while True:
            line = self.data.index(b"\r\n", position)
            size = int(self.data[position:line], 16)
            if size == 0:
                return
            start, position = line + 2, line + 4 + size
            yield start, bytes(self.data[start : start + size])

    def arrival(self, offset: int) -> int:
        """When the byte before `offset` arrived."""
        return self.times[bisect_left(self.ends, offset)]

    def events(self) -> list[tuple[int, int]]:
        """When each stamped event was made, and when it was here."""
        found = []
        for start, chunk in self.body():
            for match in _STAMP.finditer(chunk):
                found.append((int(match[1]), self.arrival(start + match.end())))
        return found

    def text(self) -> bytes:
        """The whole body."""
        return b"".join(chunk for _, chunk in self.body())

    def check(self, events: int, *, ids: bool | None) -> Self:
        """Return the answer if nothing is missing from it: a status, its events, its result.

        `ids` says whether events must carry ids (persisted) or must not (bare).
        """
        text = self.text()
        count = len(_STAMP.findall(text))
        has_ids = b"\nid: " in b"\n" + text
        if self.status != 200 or count != events or b'"result"' not in text:
            raise BenchmarkError(
                f"status {self.status}, {count} of {events} events: {text[:300]!r}"
            )
        if ids is not None and ids is not has_ids:
            raise BenchmarkError(f"event ids {has_ids}, expected {ids}: {text[:300]!r}")
        return self

    def result_at(self) -> int:
        """When the result was here."""
        for start, chunk in self.body():
            found = chunk.find(b'"result"')
            if found >= 0:
                return self.arrival(start + found + 8)
        raise BenchmarkError(f"no result in {self.text()[:300]!r}")


class Connection(asyncio.Protocol):
    """One keep-alive connection; one request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._answer: Answer | None = None
        self._waiter: asyncio.Future[Answer] | None = None

    @classmethod
    async def open(cls, port: int) -> Self:
        """Connect to a server on this machine."""
        loop = asyncio.get_running_loop()
        _, protocol = await loop.create_connection(cls, "127.0.0.1", port)
        return protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        answer, waiter = self._answer, self._waiter
        if answer is not None and answer.take(data) and waiter is not None and not waiter.done():
            waiter.set_result(answer)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(BenchmarkError(f"the server closed the connection: {exc}"))

    def start(self, request: bytes) -> asyncio.Future[Answer]:
        """Send a request; the future is its complete response."""
        assert self._transport is not None
        self._waiter = asyncio.get_running_loop().create_future()
        self._answer = Answer(time.monotonic_ns())
        self._transport.write(request)
        return self._waiter

    async def ask(self, request: bytes) -> Answer:
        """Send a request and wait for its complete response."""
        async with asyncio.timeout(TIMEOUT):
            return await self.start(request)

    async def first_id(self) -> bytes:
        """The id of the first event of the answer that is on its way."""
        assert self._answer is not None
        async with asyncio.timeout(TIMEOUT):
            while (found := _ID.search(self._answer.data)) is None:
                await asyncio.sleep(0.001)
        return found[1]

    async def first_event(self) -> bytes:
        """The same, once the tool has sent something: other workers know of the stream then."""
        assert self._answer is not None
        async with asyncio.timeout(TIMEOUT):
            while _STAMP.search(self._answer.data) is None:
                await asyncio.sleep(0.02)
        return await self.first_id()

    async def head(self) -> None:
        """Return when the answer that is on its way has begun."""
        assert self._answer is not None
        async with asyncio.timeout(TIMEOUT):
            while not self._answer.head:
                await asyncio.sleep(0.0005)

    def close(self) -> None:
        """Leave at once."""
        if self._waiter is not None:
            self._waiter.cancel()
        if self._transport is not None:
            self._transport.abort()


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a server on this machine answers."""

    port: int
    path: str = "/mcp"


def post(
    endpoint: Endpoint, message: dict[str, Any], session: bytes = b"", *, modern: bool = False
) -> bytes:
    """A request to the MCP endpoint."""
    body = json.dumps(message).encode()
    lines = [
        f"POST {endpoint.path} HTTP/1.1",
        f"host: 127.0.0.1:{endpoint.port}",
        "content-type: application/json",
        "accept: application/json, text/event-stream",
        f"mcp-protocol-version: {_MODERN if modern else _VERSION}",
        f"content-length: {len(body)}",
    ]
    if modern:
        lines += [f"mcp-method: {message['method']}", f"mcp-name: {message['params']['name']}"]
    if session:
        lines.append(f"mcp-session-id: {session.decode()}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def listen(endpoint: Endpoint, session: bytes, cursor: bytes = b"") -> bytes:
    """A request for a session's own stream, or for what follows an event."""
    head = (
        b"GET %s HTTP/1.1\r\nhost: 127.0.0.1:%d\r\naccept: text/event-stream\r\n"
        b"mcp-protocol-version: %s\r\nmcp-session-id: %s\r\n"
        % (endpoint.path.encode(), endpoint.port, _VERSION.encode(), session)
    )
    return head + (b"last-event-id: " + cursor + b"\r\n" if cursor else b"") + b"\r\n"


class Client:
    """A client on one connection: a handshake-era session, or 2026-07-28 without one."""

    def __init__(
        self, endpoint: Endpoint, connection: Connection, session: bytes, *, modern: bool = False
    ) -> None:
        self._endpoint = endpoint
        self._connection = connection
        self._last_id = 0
        self._modern = modern
        self.session = session

    @classmethod
    async def open(cls, endpoint: Endpoint, *, modern: bool = False) -> Self:
        """Connect, and initialize where the revision knows that."""
        connection = await Connection.open(endpoint.port)
        if modern:
            return cls(endpoint, connection, b"", modern=True)
        hello = {"protocolVersion": _VERSION, "capabilities": {}, "clientInfo": _CLIENT}
        request = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": hello}
        session = (await connection.ask(post(endpoint, request))).session
        ready = {"jsonrpc": "2.0", "method": "notifications/initialized"}
        await connection.ask(post(endpoint, ready, session))
        return cls(endpoint, connection, session)

    def request(self, tool: str, arguments: dict[str, Any]) -> bytes:
        """The bytes of a tool call that asks for progress."""
        self._last_id += 1
        meta: dict[str, Any] = {"progressToken": self._last_id}
        if self._modern:
            meta[f"{_META}protocolVersion"] = _MODERN
            meta[f"{_META}clientInfo"] = _CLIENT
            meta[f"{_META}clientCapabilities"] = {}
        params = {"name": tool, "arguments": arguments, "_meta": meta}
        message = {"jsonrpc": "2.0", "id": self._last_id, "method": "tools/call", "params": params}
        return post(self._endpoint, message, self.session, modern=self._modern)

    async def call(self, tool: str, **arguments: Any) -> Answer:
        """Call a tool and wait for the complete response."""
        return await self._connection.ask(self.request(tool, arguments))

    def start(self, tool: str, **arguments: Any) -> asyncio.Future[Answer]:
        """Call a tool; the future is the complete response."""
        return self._connection.start(self.request(tool, arguments))

    async def first_id(self) -> bytes:
        """The id of the first event of the call that was started."""
        return await self._connection.first_id()

    async def first_event(self) -> bytes:
        """The same, once the tool has sent something."""
        return await self._connection.first_event()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._connection.close()
