"""Questions to an MCP endpoint, put as a client would put them."""

import asyncio
import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from starlette.types import ASGIApp

from mcp_persist_middleware import asgi
from mcp_persist_middleware.protocol import coding, eras, headers, jsonrpc, sse

MODERN = eras.MODERN.versions[0]
_META = "io.modelcontextprotocol/"
_MOVED = (307, 308)
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
        return self._member("result")

    @property
    def error(self) -> dict[str, Any]:
        """The error in it; empty where there is none."""
        return self._member("error")

    def _member(self, name: str) -> dict[str, Any]:
        found = (message.get(name) for message in self._messages() if isinstance(message, dict))
        return next((value for value in found if isinstance(value, dict)), {})

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
    """Asks one endpoint. Each question waits half a minute at most, and raises what the application
    raises.

    Args:
        app: what is asked.
        path: where its endpoint is.
        given: headers of every question, in the place of others of the same name.
    """

    def __init__(self, app: ASGIApp, path: str, given: headers.RawHeaders = ()) -> None:
        self._app = app
        self._path = path
        self._given = given

    async def initialize(self, version: str, *more: tuple[bytes, bytes]) -> Heard:
        """Begin a session."""
        params = {"protocolVersion": version, "capabilities": {}, "clientInfo": _CLIENT}
        return await self._ask("POST", _message("initialize", params), *more)

    async def initialized(self, session: str | None, version: str) -> Heard:
        """Say that it has begun."""
        message = {"jsonrpc": "2.0", "method": "notifications/initialized"}
        return await self._ask("POST", message, *_in_session(session, version))

    async def discover(self) -> Heard:
        """What a server of 2026-07-28 says of itself."""
        return await self._modern("server/discover", {})

    async def returned(self, state: str) -> Heard:
        """What it says to a `requestState` that comes back with the call of a tool that there is
        not: who seals it looks at that first (2026-07-28)."""
        name = f"no-tool-{secrets.token_hex(8)}"
        params = {"name": name, "arguments": {}, "requestState": state, "inputResponses": {}}
        return await self._modern("tools/call", params, (b"mcp-name", name.encode()))

    async def preflight(self, *more: tuple[bytes, bytes]) -> Heard:
        """What a browser asks before it sends what a page wants it to."""
        return await self._ask("OPTIONS", None, *more)

    async def _modern(
        self, method: str, params: dict[str, Any], *more: tuple[bytes, bytes]
    ) -> Heard:
        meta = {
            f"{_META}protocolVersion": MODERN,
            f"{_META}clientInfo": _CLIENT,
            f"{_META}clientCapabilities": {},
        }
        named = [(headers.PROTOCOL_VERSION, MODERN.encode()), (b"mcp-method", method.encode())]
        return await self._ask("POST", _message(method, {**params, "_meta": meta}), *named, *more)

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
        heard = await self._once(method, message, *more)
        if heard.status in _MOVED and (path := self._slashed(heard)) is not None:
            self._path = path
            heard = await self._once(method, message, *more)
        return heard

    def _slashed(self, heard: Heard) -> str | None:
        """Where it is, if it only wants another slash at its end, or none, as a mount does: every
        client goes there by itself."""
        path = urlsplit(heard.header(b"location") or "").path
        same = path != self._path and path.rstrip("/") == self._path.rstrip("/")
        return path if same else None

    async def _once(
        self, method: str, message: dict[str, Any] | None, *more: tuple[bytes, bytes]
    ) -> Heard:
        raw = [(b"accept", b"application/json, text/event-stream"), *more]
        if message is not None:
            raw.append((b"content-type", b"application/json"))
        names = {name for name, _ in self._given}
        scope = {
            "type": "http",
            "method": method,
            "path": self._path,
            "raw_path": self._path.encode(),
            "query_string": b"",
            "headers": [*(pair for pair in raw if pair[0] not in names), *self._given],
            "extensions": {},
        }
        body = b"" if message is None else json.dumps(message).encode()
        until = None if method == "GET" else _is_answered
        answer = await asgi.ask(self._app, scope, body, until=until)
        return Heard(answer.status, answer.headers, answer.body)


def _message(method: str, params: dict[str, Any]) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}


def _in_session(session: str | None, version: str) -> list[tuple[bytes, bytes]]:
    named = [(headers.PROTOCOL_VERSION, version.encode("latin-1"))]
    return named if session is None else [*named, (headers.SESSION_ID, session.encode("latin-1"))]


def _is_answered(body: bytes) -> bool:
    frames = sse.FrameParser(len(body) + 1).feed(body)
    return any(jsonrpc.scan(frame.data)[1] for frame in frames if frame.data)
