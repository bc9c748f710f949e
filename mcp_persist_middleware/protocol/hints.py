"""What a `subscriptions/listen` of 2026-07-28 asks for, and what comes on its stream: hints that
something has changed. A hint is a level, not an event: whoever has it twice fetches twice, and that
is all. Source: spec/2026-07-28, SEP-2575."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from mcp_persist_middleware.model import RequestId
from mcp_persist_middleware.protocol import sse

METHOD = "subscriptions/listen"
SUBSCRIPTION_ID = "io.modelcontextprotocol/subscriptionId"
_ACKNOWLEDGED = "notifications/subscriptions/acknowledged"
_UPDATED = "notifications/resources/updated"
# The flag of a filter that asks for each kind of list.
_LISTS = {
    "notifications/tools/list_changed": "toolsListChanged",
    "notifications/prompts/list_changed": "promptsListChanged",
    "notifications/resources/list_changed": "resourcesListChanged",
}
_MARKS = (b"list_changed", b"resources/updated")


class Hint(NamedTuple):
    """Something has changed, and may be fetched again."""

    method: str
    uri: str = ""
    """Which resource, where it is one."""

    def message(self, subscription: RequestId) -> bytes:
        """It, as a message on the stream of this listen."""
        params: dict[str, Any] = {"_meta": {SUBSCRIPTION_ID: subscription}}
        if self.uri:
            params["uri"] = self.uri
        return _dumped({"jsonrpc": "2.0", "method": self.method, "params": params})


@dataclass(frozen=True, slots=True)
class Filter:
    """What one listen asks for, or what it was promised."""

    lists: frozenset[str] = frozenset()
    """The methods of the notifications about lists."""
    uris: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.lists or self.uris)

    def admits(self, hint: Hint) -> bool:
        """Whether a hint is for whoever was promised this. The resource may be a part of one that
        was asked for."""
        if hint.method != _UPDATED:
            return hint.method in self.lists
        return hint.uri in self.uris or any(
            hint.uri.startswith(uri.rstrip("/") + "/") for uri in self.uris
        )

    def joined(self, others: Iterable["Filter"]) -> "Filter":
        """All that this one or one of the others asks for."""
        every = [self, *others]
        return Filter(
            frozenset[str]().union(*(each.lists for each in every)),
            frozenset[str]().union(*(each.uris for each in every)),
        )

    def covers(self, other: "Filter") -> bool:
        """Whether the other one asks for nothing more."""
        return self.lists >= other.lists and self.uris >= other.uris

    @property
    def params(self) -> dict[str, Any]:
        """It, as the `notifications` of a listen's parameters."""
        asked: dict[str, Any] = {_LISTS[method]: True for method in sorted(self.lists)}
        return asked | ({"resourceSubscriptions": sorted(self.uris)} if self.uris else {})

    @classmethod
    def of(cls, notifications: object) -> "Filter":
        """The filter in what a listen asks for, or in its acknowledgement."""
        if not isinstance(notifications, dict):
            return cls()
        uris = notifications.get("resourceSubscriptions")
        named = uris if isinstance(uris, list) else []
        return cls(
            frozenset(method for method, flag in _LISTS.items() if notifications.get(flag) is True),
            frozenset(uri for uri in named if isinstance(uri, str) and uri),
        )


def asked(body: bytes) -> Filter:
    """What a listen asks for."""
    match _loaded(body):
        case {"params": {"notifications": notifications}}:
            return Filter.of(notifications)
        case _:
            return Filter()


def task_ids(message: Any) -> list[str] | None:
    """The tasks of which a listen wants to be told; None where it asks for none."""
    match message:
        case {"params": {"notifications": {"taskIds": list(names)}}}:
            return [name for name in names if isinstance(name, str)]
        case _:
            return None


def acknowledgement(request_id: RequestId) -> bytes:
    """The event that acknowledges nothing so far."""
    params = {"notifications": {}, "_meta": {SUBSCRIPTION_ID: request_id}}
    message = {"jsonrpc": "2.0", "method": _ACKNOWLEDGED, "params": params}
    return sse.event(_dumped(message)) + sse.CRLF


def notification(method: bytes, params: bytes, subscription: RequestId) -> bytes:
    """A message on the stream of this listen, with parameters that are written already."""
    meta = _dumped({SUBSCRIPTION_ID: subscription})
    head = b'{"jsonrpc":"2.0","method":"%s","params":{"_meta":%s,' % (method, meta)
    return head + params[1:] + b"}"


def acknowledged(data: bytes) -> dict[str, Any] | None:
    """What a message acknowledges of what a listen has asked for; None when it is another one."""
    if _ACKNOWLEDGED.encode() not in data:
        return None
    match _loaded(data):
        case {"method": str(method), "params": {"notifications": dict(promised)}}:
            return promised if method == _ACKNOWLEDGED else None
        case _:
            return None


def hint_of(data: bytes) -> Hint | None:
    """The hint in a message of the server; None when there is none."""
    if not any(mark in data for mark in _MARKS):
        return None
    match _loaded(data):
        case {"method": str(method)} if method in _LISTS:
            return Hint(method)
        case {"method": str(method), "params": {"uri": str(uri)}} if method == _UPDATED and uri:
            return Hint(method, uri)
        case _:
            return None


def ended(request_id: RequestId) -> bytes:
    """The answer to a listen: the server has ended it in order."""
    result = {"resultType": "complete", "_meta": {SUBSCRIPTION_ID: request_id}}
    return _dumped({"jsonrpc": "2.0", "id": request_id, "result": result})


def request(request_id: str, asked: Filter, meta: object) -> bytes:
    """A listen of our own, with the `_meta` of somebody's request."""
    params = {"notifications": asked.params, "_meta": meta}
    return _dumped({"jsonrpc": "2.0", "id": request_id, "method": METHOD, "params": params})


def _dumped(message: dict[str, Any]) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode()


def _loaded(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None
