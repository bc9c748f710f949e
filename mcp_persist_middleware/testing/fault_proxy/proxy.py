"""A TCP proxy on loopback that understands HTTP/1.1 well enough to cut a connection on purpose.

The demo and the tests put it between a client and a server. A policy sees every request, also
those that share a kept-alive connection, and says what becomes of its response.
"""

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from mcp_persist_middleware.supervision import begin_task
from mcp_persist_middleware.testing.fault_proxy import http
from mcp_persist_middleware.testing.fault_proxy.cuts import (
    Disconnect,
    Plan,
    Policy,
    ProxiedExchange,
    ProxiedRequest,
    Scanner,
)

_HEAD_LIMIT = 1 << 20
_LINGER = struct.pack("hh" if os.name == "nt" else "ii", 1, 0)

Route = Callable[[ProxiedRequest], Sequence[int]]
_Socket = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(slots=True)
class _Link:
    """One client connection and the server connection that belongs to it just now."""

    number: int
    client: _Socket
    server: _Socket | None
    waiting: asyncio.Queue[tuple[ProxiedExchange, Plan, _Socket]] = field(
        default_factory=asyncio.Queue
    )

    def end(self, ending: Disconnect) -> None:
        _end(self.client[1], ending)
        if self.server is not None:
            _end(self.server[1], ending)


class FaultProxy:
    """Forwards connections to `target` (a loopback port, may be changed) as `policy` decides.

    Args:
        route: the ports that a request may go to, each request by itself and on a connection of
            its own, as a load balancer without stickiness does; the first that accepts has it.
    """

    def __init__(
        self,
        target: int = 0,
        policy: Policy | None = None,
        *,
        route: Route | None = None,
        on_end: Callable[[ProxiedExchange], None] | None = None,
        receive_buffer: int | None = None,
    ) -> None:
        self.target = target
        self.policy = policy
        self.port = 0
        self.exchanges: list[ProxiedExchange] = []
        self._route = route
        self._on_end = on_end
        self._receive_buffer = receive_buffer
        self._links: dict[asyncio.Task[object], _Link | None] = {}
        self._connections = 0

    @property
    def cuts(self) -> int:
        """How many responses were cut."""
        return sum(exchange.cut for exchange in self.exchanges)

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_server(
            self._accept, "127.0.0.1", self.port, limit=_HEAD_LIMIT
        )
        self.port = self._listener.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._listener.close()
        for task in list(self._links):
            task.cancel()
        await asyncio.gather(*self._links, return_exceptions=True)

    def end_all(self, ending: Disconnect = Disconnect.ABORT) -> None:
        """End every connection that is open now; new ones are accepted as before."""
        for link in self._links.values():
            if link is not None:
                link.end(ending)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._links[task] = None
        try:
            server = None if self._route else await self._connect(self.target)
            self._connections += 1
            link = self._links[task] = _Link(self._connections, (reader, writer), server)
            # With no room in the buffers a drain means: the kernel has it, a reset keeps it.
            writer.transport.set_write_buffer_limits(high=0)
            link.end(await self._run(link))
        except (OSError, asyncio.CancelledError):
            _end(writer, Disconnect.ABORT)
        finally:
            if (opened := self._links.pop(task)) is not None:
                opened.end(Disconnect.ABORT)

    async def _connect(self, target: int) -> _Socket:
        connection = socket.socket()
        connection.setblocking(False)
        if self._receive_buffer is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_buffer)
        try:
            await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", target))
        except BaseException:
            connection.close()
            raise
        limit = self._receive_buffer or _HEAD_LIMIT
        return await asyncio.open_connection(sock=connection, limit=limit)

    async def _server(self, link: _Link, exchange: ProxiedExchange) -> _Socket:
        """The connection that a request takes."""
        if self._route is not None:
            if link.server is not None:
                _end(link.server[1], Disconnect.CLOSE)
                link.server = None
            for port in self._route(exchange.request):
                with contextlib.suppress(ConnectionError):
                    link.server = await self._connect(port)
                    exchange.target = port
                    break
        if link.server is None:
            raise ConnectionRefusedError
        return link.server

    async def _run(self, link: _Link) -> Disconnect:
        """FaultProxy both directions until either ends; the way it ended."""
        directions = [
            begin_task(self._requests(link), "fault-proxy-requests"),
            begin_task(self._responses(link), "fault-proxy-responses"),
        ]
        try:
            done, _ = await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for direction in directions:
                direction.cancel()
            await asyncio.gather(*directions, return_exceptions=True)
        for direction in done:
            error = direction.exception()
            if error is None:
                return direction.result()
            if not isinstance(error, asyncio.IncompleteReadError | OSError):
                raise error
        return Disconnect.ABORT if isinstance(error, OSError) else Disconnect.CLOSE

    async def _requests(self, link: _Link) -> Disconnect:
        reader = link.client[0]
        while True:
            raw = await reader.readuntil(b"\r\n\r\n")
            line, headers = http.head(raw)
            method, target, _ = line.split(" ", 2)
            body = bytearray()
            pieces = [raw]
            async for framing, payload in http.body(reader, headers, empty=True):
                pieces += [framing, payload]
                body += payload
            request = ProxiedRequest(method, target, headers, bytes(body), link.number)
            exchange = ProxiedExchange(request)
            self.exchanges.append(exchange)
            plan = self.policy(request) if self.policy else None
            server = await self._server(link, exchange)
            writer = server[1]
            link.waiting.put_nowait((exchange, plan or Plan(), server))
            writer.write(b"".join(pieces))
            await writer.drain()

    async def _responses(self, link: _Link) -> Disconnect:
        while True:
            exchange, plan, server = await link.waiting.get()
            try:
                await self._respond(server[0], link.client[1], exchange, plan)
            finally:
                if self._on_end:
                    self._on_end(exchange)
            if exchange.cut and plan.cut:
                return plan.cut.ending

    async def _respond(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        exchange: ProxiedExchange,
        plan: Plan,
    ) -> None:
        while exchange.status < 200:
            raw = await reader.readuntil(b"\r\n\r\n")
            line, headers = http.head(raw)
            exchange.status = int(line.split(" ", 2)[1])
            writer.write(raw)
        empty = exchange.request.method == "HEAD" or exchange.status in (204, 304)
        scanner = Scanner(exchange, plan.cut)
        await writer.drain()
        pieces = http.body(reader, {} if empty else headers, empty=empty, rate=plan.rate)
        async for framing, payload in pieces:
            passing = scanner.feed(payload)
            exchange.cut = passing is not None
            writer.write(framing + payload[:passing])
            exchange.size += len(payload[:passing])
            await writer.drain()
            if exchange.cut:
                return
        exchange.complete = True


def _end(writer: asyncio.StreamWriter, ending: Disconnect) -> None:
    if writer.transport.is_closing():
        return
    if ending is Disconnect.CLOSE:
        writer.close()
        return
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER)
    writer.transport.abort()
