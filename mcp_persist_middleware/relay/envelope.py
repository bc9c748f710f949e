"""What travels between two workers: a request with the named parts of its scope, and what became
of it. Pure: bytes in, bytes out."""

import asyncio
import json
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from starlette.types import Scope

from mcp_persist_middleware.asgi import EXTENSION
from mcp_persist_middleware.model import Event, EventKind, RelayRequest, RequestId, StreamKind
from mcp_persist_middleware.protocol import headers
from mcp_persist_middleware.protocol.headers import RawHeaders
from mcp_persist_middleware.relay import sealing

_TEXT = ("method", "path", "root_path", "scheme", "http_version")
_BYTES = ("query_string", "raw_path")
_ADDRESSES = ("client", "server")
_LENGTH = struct.Struct(">I")
# To copy and to seal this takes about a millisecond.
_MANY = 1024 * 1024
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RequestEnvelope:
    """A request."""

    scope: Scope
    """Its named parts, and nothing else."""
    body: bytes
    namespace: str
    outer: Any = None
    """What the `relay_scope` setting made of the rest."""
    cursor: str = ""
    """That of the client that came back for this request, if it is to be run again."""

    @property
    def trace(self) -> dict[str, str]:
        """The headers that say which trace it belongs to."""
        found = {each.decode(): headers.get(self.scope["headers"], each) for each in headers.TRACE}
        return {name: value for name, value in found.items() if value is not None}

    def scope_on(self, ground: Scope) -> Scope:
        """The scope of this request in an application whose every request has the `ground`."""
        state = dict(ground.get("state", {}))
        scope = {"asgi": {"version": "3.0"}, **ground, **self.scope, "state": state}
        scope["extensions"] = {EXTENSION: {"namespace": self.namespace}}
        scope.setdefault("raw_path", scope["path"].encode())
        return scope

    def pack(self) -> bytes:
        """As bytes."""
        scope = self.scope
        head: dict[str, Any] = {name: scope[name] for name in _TEXT if name in scope}
        head |= {name: _text(scope[name]) for name in _BYTES if scope.get(name) is not None}
        head |= {name: scope[name] for name in _ADDRESSES if scope.get(name) is not None}
        head |= {"headers": _texts(scope["headers"]), "outer": self.outer, "again": self.cursor}
        return _join({**head, "namespace": self.namespace}, self.body)

    def seal(self, key: bytes | None, request: bytes) -> bytes:
        """As bytes, in a box for the holder of the key if there is one."""
        content = self.pack()
        return content if key is None else sealing.seal(content, key, request)

    @classmethod
    def open(cls, request: RelayRequest, seal: sealing.Seal | None) -> "RequestEnvelope":
        """From bytes that may be in a box.

        Raises:
            UnreadableError: in one that is not for this worker.
        """
        if not request.sealed:
            return cls.unpack(request.content)
        if seal is None:
            raise sealing.UnreadableError
        return cls.unpack(seal.open(request.content, request.id))

    @classmethod
    def unpack(cls, data: bytes) -> "RequestEnvelope":
        """From bytes."""
        head, body = _split(data)
        namespace, outer, cursor = (head.pop(name) for name in ("namespace", "outer", "again"))
        scope: dict[str, Any] = {"type": "http", "client": None, "server": None, **head}
        scope |= {name: head[name].encode("latin-1") for name in _BYTES if name in head}
        scope |= {name: tuple(head[name]) for name in _ADDRESSES if name in head}
        scope["headers"] = _bytes(head["headers"])
        return cls(scope, body, namespace, outer, cursor)


@dataclass(frozen=True, slots=True)
class StreamResponse:
    """The answer is a stream in the log."""

    name: ClassVar = "stream"
    stream: bytes
    kind: StreamKind
    request_id: RequestId
    head: RawHeaders
    after: int = 0
    """Where its reader begins."""
    joined: bool = False
    """It had begun before this request."""
    suppress_requests_through: int = 0
    """Requests of the server up to this event are too old for this one."""
    events: tuple[Event, ...] = ()
    """All events of the stream, if it has ended and they are few."""
    expires_at: float | None = None
    """Until when its reader may read, where that is known."""

    def pack(self) -> bytes:
        """As bytes."""
        head = {
            "stream": self.stream.hex(),
            "kind": self.kind.value,
            "id": self.request_id,
            "headers": _texts(self.head),
            "after": self.after,
            "joined": self.joined,
            "quiet": self.suppress_requests_through,
            "expires_at": self.expires_at,
            "events": [(e.sequence, e.epoch, e.kind, len(e.frame)) for e in self.events],
        }
        return _join(head, b"".join(event.frame for event in self.events))


@dataclass(frozen=True, slots=True)
class BufferedResponse:
    """The answer, from its status to its last byte."""

    name: ClassVar = "buffered"
    status: int
    head: RawHeaders
    body: bytes

    def pack(self) -> bytes:
        """As bytes."""
        return _join({"status": self.status, "headers": _texts(self.head)}, self.body)


@dataclass(frozen=True, slots=True)
class NotExecuted:
    """The application has not seen the request, and will not."""

    name: ClassVar = "not_executed"
    home_vacant: bool = False
    """The addressee is the session's home and does not hold it: whoever can may take it over."""
    queue_full: bool = False
    """Too much runs there already for this session, or for whom it belongs to."""

    def pack(self) -> bytes:
        """As bytes."""
        return _join({"home_vacant": self.home_vacant, "full": self.queue_full}, b"")


Reply = StreamResponse | BufferedResponse | NotExecuted


def unpack_reply(data: bytes) -> Reply:
    """A reply from bytes."""
    head, body = _split(data)
    match head:
        case {"stream": stream}:
            kind, number = StreamKind(head["kind"]), head["id"]
            place = (head["after"], head["joined"], head["quiet"])
            told = _bytes(head["headers"]), *place, _events(head.get("events", ()), body)
            ends = head.get("expires_at")
            return StreamResponse(bytes.fromhex(stream), kind, number, *told, expires_at=ends)
        case {"status": status}:
            return BufferedResponse(status, _bytes(head["headers"]), body)
        case _:
            return NotExecuted(head["home_vacant"], head.get("full", False))


async def away(size: int, work: Callable[[], T]) -> T:
    """What a function makes of so many bytes, in a thread where they are many."""
    return await asyncio.to_thread(work) if size > _MANY else work()


def has_cookie(reply: Reply) -> bool:
    """Whether the application sets a cookie with it."""
    return isinstance(reply, StreamResponse | BufferedResponse) and any(
        name.lower() == b"set-cookie" for name, _ in reply.head
    )


def _events(heads: Sequence[Sequence[int]], frames: bytes) -> tuple[Event, ...]:
    found, at = [], 0
    for sequence, epoch, kind, size in heads:
        found.append(Event(sequence, epoch, EventKind(kind), frames[at : at + size]))
        at += size
    return tuple(found)


def _join(head: Mapping[str, Any], body: bytes) -> bytes:
    text = json.dumps(head).encode()
    return _LENGTH.pack(len(text)) + text + body


def _split(data: bytes) -> tuple[dict[str, Any], bytes]:
    (length,) = _LENGTH.unpack_from(data)
    end = _LENGTH.size + length
    head: dict[str, Any] = json.loads(data[_LENGTH.size : end])
    return head, data[end:]


def _text(data: bytes) -> str:
    return data.decode("latin-1")


def _texts(raw: RawHeaders) -> list[tuple[str, str]]:
    return [(_text(name), _text(value)) for name, value in raw]


def _bytes(raw: Sequence[Sequence[str]]) -> list[tuple[bytes, bytes]]:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in raw]
