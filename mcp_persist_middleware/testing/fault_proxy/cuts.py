"""What the proxy sees of an exchange, and the byte at which a cut falls."""

import contextlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

_EVENT_END = re.compile(rb"\r\n\r\n|\n\n|\r\r")
_ID_LINE = re.compile(rb"(?:^|[\r\n])id: ?([^\r\n]*)")
_DATA_LINE = re.compile(rb"(?:^|[\r\n])data: ?[^ \r\n]")


class Disconnect(StrEnum):
    """How a connection ends: `abort` sends a reset, `close` ends it in order."""

    ABORT = "abort"
    CLOSE = "close"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """Ends the connection inside a response's body.

    First `ids` events that carry an id must have passed, then `events` events with data, then
    `size` more bytes of the body.
    """

    ids: int = 0
    events: int = 0
    size: int = 0
    ending: Disconnect = Disconnect.ABORT


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What becomes of one response; `rate` is in bytes a second, and 0 reads nothing at all."""

    cut: Cut | None = None
    rate: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class ProxiedRequest:
    """A request as it passed, equal only to itself; header names are in lower case."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes
    connection: int

    @property
    def rpc_method(self) -> str | None:
        """The JSON-RPC method of the body, if it has one."""
        with contextlib.suppress(ValueError):
            message = json.loads(self.body)
            if isinstance(message, dict) and isinstance(message.get("method"), str):
                return str(message["method"])
        return None


@dataclass(slots=True)
class ProxiedExchange:
    """What has passed of one request's response so far."""

    request: ProxiedRequest
    status: int = 0
    size: int = 0
    events: int = 0
    last_id: str | None = None
    target: int = 0
    """The port it went to, where each request goes its own way."""
    cut: bool = False
    complete: bool = False


Policy = Callable[[ProxiedRequest], Plan | None]


class Scanner:
    """Counts the events of a body and finds the byte where a cut falls."""

    def __init__(self, exchange: ProxiedExchange, cut: Cut | None) -> None:
        self._exchange = exchange
        self._cut = cut
        self._ids = cut.ids if cut else 0
        self._events = cut.events if cut else 0
        self._size = cut.size if cut else 0
        self._event = bytearray()

    def feed(self, payload: bytes) -> int | None:
        """How many of these bytes may still pass, or None when all of them may."""
        mark = 0 if self._armed else None
        before = len(self._event)
        self._event += payload
        start, found = 0, _EVENT_END.search(self._event, max(0, before - 3))
        while found:
            position = found.end() - before
            if mark is not None and self._cut and mark + self._size <= position:
                break
            if self._count(bytes(self._event[start : found.end()])):
                mark = position
            start = found.end()
            found = _EVENT_END.search(self._event, start)
        del self._event[:start]
        if self._cut is None or mark is None:
            return None
        passing = mark + self._size
        self._size -= len(payload) - mark
        return passing if passing <= len(payload) else None

    @property
    def _armed(self) -> bool:
        return self._ids <= 0 and self._events <= 0

    def _count(self, event: bytes) -> bool:
        """Take note of a whole event; true when it is the last one that the cut waits for."""
        waiting = not self._armed
        identified, data = _ID_LINE.search(event), _DATA_LINE.search(event)
        if identified:
            self._exchange.last_id = identified[1].decode(errors="replace")
        if data:
            self._exchange.events += 1
        if self._ids > 0:
            self._ids -= identified is not None
        elif self._events > 0:
            self._events -= data is not None
        return waiting and self._armed
