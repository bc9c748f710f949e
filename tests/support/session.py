"""A raw MCP session: the messages of a client, with every frame left visible."""

import itertools
import json
from dataclasses import dataclass, field
from typing import Any, Self

from tests.support.sse_client import Frame, Response, request

HANDSHAKE = "2025-11-25"
MODERN = "2026-07-28"
_ACCEPT = "application/json, text/event-stream"
_CLIENT = {"name": "raw", "version": "1"}
_META = "io.modelcontextprotocol/"


@dataclass(slots=True)
class RawSession:
    """Speaks to one endpoint; in the handshake eras with a session, at 2026-07-28 without."""

    port: int
    version: str = HANDSHAKE
    path: str = "/mcp"
    session_id: str | None = None
    extra: dict[str, str] = field(default_factory=dict)
    _ids: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))

    @classmethod
    async def open(
        cls,
        port: int,
        version: str = HANDSHAKE,
        *,
        path: str = "/mcp",
        extra: dict[str, str] | None = None,
    ) -> Self:
        """A session, initialised where its era knows that; `extra` headers go on everything."""
        session = cls(port, version, path, extra=dict(extra or {}))
        if version == MODERN:
            return session
        params = {"protocolVersion": version, "capabilities": {}, "clientInfo": _CLIENT}
        response = await session.post("initialize", params)
        session.session_id = response.headers.get("mcp-session-id")
        await response.body()
        response.close()
        accepted = await session.notify("notifications/initialized")
        assert (response.status, accepted) == (200, 202)
        return session

    def headers(self, **more: str) -> dict[str, str]:
        """The headers of one request."""
        headers = {"accept": _ACCEPT, "content-type": "application/json", **self.extra}
        headers["mcp-protocol-version"] = self.version
        if self.session_id is not None:
            headers["mcp-session-id"] = self.session_id
        return headers | more

    async def post(
        self,
        method: str,
        params: dict[str, Any] | None = None,
        *,
        request_id: int | str | None = None,
        **connection: Any,
    ) -> Response:
        """A request; the response's body is left to be read."""
        number = next(self._ids) if request_id is None else request_id
        params = dict(params or {})
        headers = self.headers()
        if method == "initialize":
            del headers["mcp-protocol-version"]
        if self.version == MODERN:
            headers["mcp-method"] = method
            if isinstance(name := params.get("name"), str):
                headers["mcp-name"] = name
            params["_meta"] = params.get("_meta", {}) | {
                f"{_META}protocolVersion": self.version,
                f"{_META}clientInfo": _CLIENT,
                f"{_META}clientCapabilities": {},
            }
        message = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
        return await self._send(message, headers, **connection)

    async def notify(self, method: str, params: dict[str, Any] | None = None) -> int:
        """A notification; its status."""
        message = {"jsonrpc": "2.0", "method": method, "params": params or {}}
        response = await self._send(message, self.headers())
        response.close()
        return response.status

    async def call(self, tool: str, /, *, token: int | str = "p", **arguments: Any) -> Response:
        """A tool call that asks for progress."""
        params = {"name": tool, "arguments": arguments, "_meta": {"progressToken": token}}
        return await self.post("tools/call", params)

    async def get(self, cursor: str | None = None, **connection: Any) -> Response:
        """The session's GET stream, or what follows a cursor."""
        more = {"last-event-id": cursor} if cursor is not None else {}
        headers = self.headers(**more)
        return await request(self.port, "GET", self.path, headers=headers, **connection)

    async def delete(self) -> int:
        """End the session; the status."""
        response = await request(self.port, "DELETE", self.path, headers=self.headers())
        response.close()
        return response.status

    async def _send(
        self, message: dict[str, Any], headers: dict[str, str], **connection: Any
    ) -> Response:
        body = json.dumps(message).encode()
        return await request(self.port, "POST", self.path, headers=headers, body=body, **connection)


def last_id(frames: list[Frame], otherwise: str | None = None) -> str | None:
    """The cursor of a client that has read these frames."""
    return next((frame.id for frame in reversed(frames) if frame.id), otherwise)
