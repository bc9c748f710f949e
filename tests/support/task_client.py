"""A small client of 2026-07-28 that knows tasks, with every answer left visible."""

import asyncio
import itertools
import json
from dataclasses import dataclass, field
from typing import Any

from tests.support.session import MODERN
from tests.support.sse_client import Response, request

TASKS = "io.modelcontextprotocol/tasks"
_META = "io.modelcontextprotocol/"
_ids = itertools.count(1)


@dataclass(slots=True)
class TaskClient:
    """Speaks to one endpoint.

    Args:
        knows: whether it declares the extension.
        extra: headers that go on everything.
    """

    port: int
    path: str = "/mcp"
    knows: bool = True
    extra: dict[str, str] = field(default_factory=dict)

    async def post(self, method: str, params: dict[str, Any], **headers: str | None) -> Response:
        """A request; the response's body is left to be read. A header of None is left out."""
        extensions = {"extensions": {TASKS: {}}} if self.knows else {}
        meta = {f"{_META}protocolVersion": MODERN, f"{_META}clientCapabilities": extensions}
        params = {**params, "_meta": {**meta, **params.get("_meta", {})}}
        told: dict[str, str | None] = {
            "accept": "application/json, text/event-stream",
            "content-type": "application/json",
            "mcp-protocol-version": MODERN,
            "mcp-method": method,
            "mcp-name": params.get("name", params.get("taskId")),
            **self.extra,
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        message = {"jsonrpc": "2.0", "id": next(_ids), "method": method, "params": params}
        given = {name: value for name, value in told.items() if value is not None}
        body = json.dumps(message).encode()
        return await request(self.port, "POST", self.path, headers=given, body=body)

    async def ask(self, method: str, params: dict[str, Any], **headers: str | None) -> Any:
        """The JSON-RPC response, and under `status` that of HTTP; of a stream its last message, and
        under `before` those before it."""
        response = await self.post(method, params, **headers)
        try:
            if response.is_stream:
                *before, last = [f.message async for f in response.frames() if f.data]
                return {**last, "before": before, "status": response.status}
            body = await response.body()
            return {**(json.loads(body or b"null") or {}), "status": response.status}
        finally:
            response.close()

    async def call(self, tool: str, /, **arguments: Any) -> Any:
        """What a call is answered with: a result, a task or an error."""
        meta = {"progressToken": "p"}
        answer = await self.ask("tools/call", {"name": tool, "arguments": arguments, "_meta": meta})
        return answer.get("result", answer)

    async def get(self, task: str) -> Any:
        """A task as it is now."""
        answer = await self.ask("tasks/get", {"taskId": task})
        return answer.get("result", answer)

    async def until(self, task: str, *statuses: str, timeout: float = 20.0) -> Any:
        """A task as soon as it is in one of these states; by default, when it is over."""
        wanted = statuses or ("completed", "failed", "cancelled")
        async with asyncio.timeout(timeout):
            while (found := await self.get(task)).get("status") not in wanted:
                await asyncio.sleep(0.02)
        return found
