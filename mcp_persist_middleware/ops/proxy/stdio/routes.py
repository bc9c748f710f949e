"""Which of the requests under way a child's message belongs to. Pure.

A pipe is one stream for all: what HTTP tells by the connection is told here by ids. Every request
gets a number of the child's, which is its progress token too, because two clients may choose alike.
"""

import asyncio
import itertools
import json
from collections.abc import Mapping
from typing import Any

from mcp_persist_middleware.ops.proxy.stdio.lines import Path, spliced
from mcp_persist_middleware.protocol import jsonrpc
from mcp_persist_middleware.recent import Recent

ID, PROGRESS = ("id",), ("params", "progressToken")
_ASKED_PROGRESS = ("params", "_meta", "progressToken")
_SUBSCRIPTION = "io.modelcontextprotocol/subscriptionId"
_LOG_LEVEL = "io.modelcontextprotocol/logLevel"
_CANCELLED = ("params", "requestId")
# About the server, and not about a request.
_UNRELATED = frozenset({
    "notifications/prompts/list_changed",
    "notifications/resources/list_changed",
    "notifications/resources/updated",
    "notifications/tasks/status",
    "notifications/tools/list_changed",
})  # fmt: skip
_READ_AHEAD = 16
_FINISHED = 1000


class Stream:
    """The messages that belong to one request, for whoever reads them; no more wait than a few,
    then the child does."""

    def __init__(self, number: int, message: Mapping[str, Any]) -> None:
        self.number = number
        self.id = message["id"]
        meta = _meta(message)
        self.token = meta.get("progressToken")
        self.takes_logs = _LOG_LEVEL in meta
        self.is_done = False
        """The child owes it nothing any more."""
        self._waiting: asyncio.Queue[tuple[str, bool]] = asyncio.Queue(_READ_AHEAD)
        self.is_read = True
        """Somebody waits for what comes."""

    async def put(self, text: str, *, is_last: bool = False) -> None:
        """Hand a message on; when nobody reads any more it is dropped."""
        self.is_done = self.is_done or is_last
        if self.is_read:
            await self._waiting.put((text, is_last))

    async def get(self) -> tuple[str, bool]:
        """The next message, and whether it is the last one."""
        return await self._waiting.get()

    def leave(self) -> None:
        """Nobody reads any more."""
        self.is_read = False
        while not self._waiting.empty():
            self._waiting.get_nowait()

    def restored(self, text: str, message: Mapping[str, Any]) -> str:
        """A message as this request's client knows it, by its own ids."""
        parts: dict[Path, str] = {}
        if "method" not in message:
            parts[ID] = json.dumps(self.id)
        params = message.get("params")
        if isinstance(params, dict) and params.get("progressToken") == self.number:
            parts[PROGRESS] = json.dumps(self.token)
        for part in ("params", "result"):
            if _meta(message, part).get(_SUBSCRIPTION) == self.number:
                parts[part, "_meta", _SUBSCRIPTION] = json.dumps(self.id)
        return spliced(text, parts) if parts else text


class Routes:
    """The requests under way in one child.

    Args:
        is_session: the child serves one session, and may ask its client; else a request is all
            that there is.
    """

    def __init__(self, *, is_session: bool) -> None:
        self._is_session = is_session
        self._numbers = itertools.count(1)
        self._running: dict[float, Stream] = {}
        self._tokens: Recent[float, Stream] = Recent(_FINISHED)

    def __len__(self) -> int:
        return len(self._running)

    def add(self, text: str, message: Mapping[str, Any]) -> tuple[Stream, str]:
        """A request that begins, and how the child is to be told of it."""
        stream = Stream(next(self._numbers), message)
        self._running[stream.number] = stream
        parts: dict[Path, str] = {ID: str(stream.number)}
        if stream.token is not None:
            parts[_ASKED_PROGRESS] = str(stream.number)
        return stream, spliced(text, parts)

    def remove(self, stream: Stream) -> None:
        """It has ended. Of a task there may be progress still."""
        if self._running.pop(stream.number, None) is not None and stream.token is not None:
            self._tokens[stream.number] = stream

    def take_all(self) -> list[Stream]:
        """Those that are under way, which end now."""
        taken, self._running = list(self._running.values()), {}
        return taken

    def is_awaited(self) -> bool:
        """Whether anybody waits for what is under way."""
        return any(stream.is_read for stream in self._running.values())

    def is_running(self, stream: Stream) -> bool:
        """Whether its answer has not come."""
        return stream.number in self._running

    def cancelled(self, text: str, message: Mapping[str, Any]) -> tuple[Stream, str] | None:
        """The request that a client cancels, and how the child is to be told; None for what is not
        under way."""
        params = message.get("params")
        wanted = params.get("requestId") if isinstance(params, dict) else None
        if not isinstance(wanted, str | int | float):
            return None
        for stream in self._running.values():
            if jsonrpc.key(stream.id) == jsonrpc.key(wanted):
                return stream, spliced(text, {_CANCELLED: str(stream.number)})
        return None

    def of(self, message: Mapping[str, Any]) -> tuple[Stream | None, bool]:
        """Whose a message of the child's is, and whether it is for nobody: without a stream, and
        wanted, it belongs to the session."""
        match message:
            case {
                "method": "notifications/progress",
                "params": {"progressToken": int() | float() as number},
            }:
                found = self._running.get(number) or self._tokens.get(number)
                return found, found is None
            case {
                "params": {
                    "_meta": {"io.modelcontextprotocol/subscriptionId": int() | float() as number}
                }
            }:
                return self._running.get(number), number not in self._running
            case {"method": str(method)} if self._is_session:
                return (None if method in _UNRELATED else self._newest()), False
            case {"method": "notifications/message"}:
                found = next((s for s in reversed(self._running.values()) if s.takes_logs), None)
                return found, found is None
            case {"id": int() | float() as number} if "method" not in message:
                return self._running.get(number), number not in self._running
            case _:
                return None, True

    def _newest(self) -> Stream | None:
        return next(reversed(self._running.values()), None)


def _meta(message: Mapping[str, Any], part: str = "params") -> Mapping[str, Any]:
    match message.get(part):
        case {"_meta": dict(meta)}:
            return meta
        case _:
            return {}
