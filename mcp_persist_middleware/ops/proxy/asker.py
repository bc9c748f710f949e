"""Questions to an upstream, put as a client would put them."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from starlette.types import Receive, Scope, Send

from mcp_persist_middleware import asgi
from mcp_persist_middleware.ops.proxy.pool import ConnectPolicy
from mcp_persist_middleware.ops.proxy.upstream import Upstream
from mcp_persist_middleware.protocol import coding, eras, headers, jsonrpc, sse

MODERN = eras.MODERN.versions[0]
_META = "io.modelcontextprotocol/"
_CLIENT = {"name": "mcp-persist-middleware", "version": "1"}


@dataclass(frozen=True, slots=True)
class Heard:
    """An answer, as far as it has come."""

    status: int
    headers: headers.RawHeaders
    body: bytes

    @property
    def is_stream(self) -> bool:
        """Whether it is an event stream, in whatever coding."""
        return headers.media_type(self.headers) == headers.EVENT_STREAM

    @property
    def result(self) -> dict[str, Any]:
        """The result in it; empty where there is none."""
        found = (message.get("result") for message in self._messages() if isinstance(message, dict))
        return next((result for result in found if isinstance(result, dict)), {})

    def header(self, name: bytes) -> str | None:
        """The first value of a header."""
        return headers.get(self.headers, name)

    def _messages(self) -> Iterator[Any]:
        plain = coding.plain(self.headers, self.body, asgi.MAX_ANSWER)
        parser = sse.FrameParser(asgi.MAX_ANSWER)
        for text in [frame.data for frame in parser.feed(plain)] if self.is_stream else [plain]:
            try:
                yield json.loads(text)
            except (ValueError, RecursionError):
                continue


class Asker:
    """Asks one upstream. Each question waits half a minute at most.

    Raises:
        NotSentError: it cannot be reached.
    """

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream

    async def initialize(self, version: str) -> Heard:
        """Begin a session."""
        params = {"protocolVersion": version, "capabilities": {}, "clientInfo": _CLIENT}
        return await self._ask("POST", _message("initialize", params))

    async def initialized(self, session: str | None, version: str) -> Heard:
        """Say that it has begun."""
        message = {"jsonrpc": "2.0", "method": "notifications/initialized"}
        return await self._ask("POST", message, *_in_session(session, version))

    async def discover(self) -> Heard:
        """What a server of 2026-07-28 says of itself."""
        meta = {
            f"{_META}protocolVersion": MODERN,
            f"{_META}clientInfo": _CLIENT,
            f"{_META}clientCapabilities": {},
        }
        more = [(headers.PROTOCOL_VERSION, MODERN.encode()), (b"mcp-method", b"server/discover")]
        return await self._ask("POST", _message("server/discover", {"_meta": meta}), *more)

    async def get_stream(self, session: str | None, version: str, seconds: float) -> Heard | None:
        """The head of the session's GET stream; None when it does not come in time."""
        try:
            async with asyncio.timeout(seconds):
                return await self._ask("GET", None, *_in_session(session, version))
        except TimeoutError:
            return None

    async def end(self, session: str, version: str) -> None:
        """End a session."""
        await self._ask("DELETE", None, *_in_session(session, version))

    async def _ask(
        self, method: str, message: dict[str, Any] | None, *more: tuple[bytes, bytes]
    ) -> Heard:
        pool = self._upstream.pool
        path = pool.options.path or pool.path
        raw = [(b"accept", b"application/json, text/event-stream"), *more]
        if message is not None:
            raw.append((b"content-type", b"application/json"))
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": raw,
            "extensions": {},
        }
        body = b"" if message is None else json.dumps(message).encode()
        until = None if method == "GET" else _is_answered
        answer = await asgi.ask(self._handed, scope, body, until=until)
        return Heard(answer.status, answer.headers, answer.body)

    async def _handed(self, scope: Scope, receive: Receive, send: Send) -> None:
        policy = ConnectPolicy(self._upstream.pool.options.connect_timeout, retries=False)
        await self._upstream.attempt(policy, scope, receive, send)


def _message(method: str, params: dict[str, Any]) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}


def _in_session(session: str | None, version: str) -> list[tuple[bytes, bytes]]:
    named = [(headers.PROTOCOL_VERSION, version.encode("latin-1"))]
    return named if session is None else [*named, (headers.SESSION_ID, session.encode("latin-1"))]


def _is_answered(body: bytes) -> bool:
    frames = sse.FrameParser(len(body) + 1).feed(body)
    return any(jsonrpc.scan(frame.data)[1] for frame in frames if frame.data)
