"""An odd request as data: each field has its ordinary value as default, so that what is odd about
a request is the fields that differ, and a request is shrunk by putting them back."""

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

from tests.peers.bare.wire import Send, head

VERSION = "2025-11-25"
MODERN = "2026-07-28"
_META = "io.modelcontextprotocol/"
_CLIENT = {"name": "odd", "version": "1"}
_WITH_BODY = ("POST", "PUT", "PATCH", "PROPFIND", "post")


@dataclass(frozen=True, slots=True)
class Opening:
    """How a case's session is opened."""

    version: str = VERSION
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Request:
    """One request of one session."""

    method: str = "POST"
    target: str = "/mcp"
    accept: tuple[str, ...] = ("application/json, text/event-stream",)
    content: tuple[str, ...] = ("application/json",)
    version: tuple[str, ...] = (VERSION,)
    session: str = "own"
    """own, second (the case's other session), none, empty, unknown, twice, spaced."""
    cursor: str = ""
    does: str = "tools/call"
    """A method, or the name of a body in `BODIES`."""
    tool: str = "tally"
    arguments: tuple[tuple[str, Any], ...] = ()
    id: str = "1"
    """As it stands in the JSON; empty: none."""
    pad: int = 0
    framing: str = "length"
    headers: tuple[tuple[str, str], ...] = ()
    modern: bool = False
    """With all that 2026-07-28 wants in header and body."""
    host: str = ""
    listen: float = 1.2
    """Seconds; no server is so slow to begin, however busy the machine is."""
    beside: bool = False
    """The next request is sent while this one is still answered."""

    @property
    def half_closes(self) -> bool:
        """Whether its client says that it has nothing more to send."""
        return self.framing in ("half close", "short")

    @property
    def odd(self) -> tuple[str, ...]:
        """The fields that are not ordinary."""
        return tuple(
            item.name
            for item in dataclasses.fields(self)
            if getattr(self, item.name) != item.default
        )

    def __str__(self) -> str:
        said = [f"{name}={getattr(self, name)!r}" for name in self.odd]
        return f"Request({', '.join(said)})"

    def send(self, port: int, sessions: list[str], *, asked: str = "") -> Send:
        """The bytes for a server on this port, in these sessions; `asked` is the id of the
        question that an answer is for."""
        body = self.body().replace(b"$ASKED", asked.encode() or b"7")
        lines = self._head(port, sessions)
        if body or self.method in _WITH_BODY:
            return _framed(self, lines, body)
        return Send((head(self.method, self.target, lines),), method=self.method, **self._waits)

    @property
    def _waits(self) -> dict[str, Any]:
        return {"listen": self.listen}

    def _head(self, port: int, sessions: list[str]) -> list[tuple[str, str]]:
        lines = [("host", self.host or f"127.0.0.1:{port}")]
        lines += [("accept", value) for value in self.accept]
        if self.method in _WITH_BODY:
            lines += [("content-type", value) for value in self.content]
        versions = (MODERN,) if self.modern else self.version
        lines += [("mcp-protocol-version", value) for value in versions]
        if self.modern:
            lines.append(("mcp-method", self.does))
            lines += [("mcp-name", self.tool)] if self.does == "tools/call" else []
        else:
            lines += [("mcp-session-id", value) for value in self._sessions(sessions)]
        if self.cursor:
            lines.append(("last-event-id", self.cursor))
        return [*lines, *self.headers]

    def _sessions(self, known: list[str]) -> list[str]:
        own = known[0] if known else ""
        others = {"none": [], "empty": [""], "unknown": ["0123456789abcdef"]}
        others |= {"twice": [own, own], "spaced": [f"  {own} "], "second": known[1:2]}
        return others.get(self.session, [own] if own else [])

    def body(self) -> bytes:
        """The body's bytes."""
        if self.method not in _WITH_BODY:
            return b""
        if self.does in BODIES:
            return BODIES[self.does].replace(b"$PAD", b"x" * self.pad)
        params: dict[str, Any] = {}
        if self.does == "tools/call":
            params = {"name": self.tool, "arguments": dict(self.arguments)}
        if self.does == "initialize":
            params = {"protocolVersion": VERSION, "capabilities": {}, "clientInfo": _CLIENT}
        meta: dict[str, Any] = {"pad": "x" * self.pad} if self.pad else {}
        if self.modern:
            meta |= {f"{_META}protocolVersion": MODERN, f"{_META}clientInfo": _CLIENT}
            meta[f"{_META}clientCapabilities"] = {}
        if meta:
            params["_meta"] = meta
        number = f'"id": {self.id}, ' if self.id else ""
        rest = f'"method": {json.dumps(self.does)}, "params": {json.dumps(params)}'
        return f'{{"jsonrpc": "2.0", {number}{rest}}}'.encode()


_PING = b'{"jsonrpc":"2.0","id":1,"method":"ping"}'
BODIES: dict[str, bytes] = {
    "nothing": b"",
    "no json": b"{",
    "a list": b"[]",
    "a batch": b"[" + _PING + b"," + _PING.replace(b"1,", b"2,") + b"]",
    "null": b"null",
    "a reply": b'{"jsonrpc":"2.0","id":99,"result":{"pad":"$PAD"}}',
    "an answer": b'{"jsonrpc":"2.0","id":$ASKED,"result":"accept"}',
    "an error": b'{"jsonrpc":"2.0","id":99,"error":{"code":1,"message":"no"}}',
    "no version": b'{"id":1,"method":"ping"}',
    "json 1.0": b'{"jsonrpc":"1.0","id":1,"method":"ping"}',
    "twice an id": b'{"jsonrpc":"2.0","id":1,"id":2,"method":"ping"}',
    "a bom": b'\xef\xbb\xbf{"jsonrpc":"2.0","id":1,"method":"ping"}',
    "latin-1": b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"x":"\xe9"}}',
    "surrogate": b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"x":"\\ud800"}}',
    "deep": b'{"jsonrpc":"2.0","id":1,"method":"ping","params":' + b"[" * 5000 + b"]" * 5000 + b"}",
    "params a list": b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":["tally"]}',
    "method a number": b'{"jsonrpc":"2.0","id":1,"method":3}',
    "cancel nothing": b'{"jsonrpc":"2.0","method":"notifications/cancelled",'
    b'"params":{"requestId":555}}',
    "spaces": b'  \r\n {"jsonrpc":"2.0","id":1,"method":"ping"}  \r\n',
    "empty initialize": b'{"jsonrpc":"2.0","id":1,"method":"initialize"}',
    "nan": b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"x":NaN}}',
}


def _framed(request: Request, lines: list[tuple[str, str]], body: bytes) -> Send:
    kind = request.framing
    given: dict[str, Any] = {"method": request.method, **request._waits}
    length = [("content-length", str(len(body)))]
    start = {
        "chunked": [("transfer-encoding", "chunked")],
        "many chunks": [("transfer-encoding", "chunked")],
        "expect": [*length, ("expect", "100-continue")],
        "close": [*length, ("connection", "close")],
        "short": [("content-length", str(len(body) + 10))],
        "no length": [],
    }.get(kind, length)
    version = "HTTP/1.0" if kind == "http 1.0" else "HTTP/1.1"
    top = head(request.method, request.target, [*lines, *start], version=version)
    match kind:
        case "chunked":
            return Send((top + _chunk(body) + b"0\r\n\r\n",), **given)
        case "many chunks":
            size = max(1, len(body) // 20)
            parts = [_chunk(body[at : at + size]) for at in range(0, len(body), size)]
            return Send((top, *parts, b"0\r\n\r\n"), (0.01, 0.0, 0.05), **given)
        case "slowly":
            third = max(1, len(body) // 3)
            parts = [body[:third], body[third : 2 * third], body[2 * third :]]
            return Send((top, *parts), (0.05, 0.05, 0.05), **given)
        case "split head":
            return Send((top[:30], top[30:] + body), (0.05,), **given)
        case "half close":
            return Send((top + body,), half_close=True, **given)
        case "short":
            return Send((top + body,), (0.1,), half_close=True, **given)
        case "expect":
            return Send((top, body), (0.1,), **given)
        case "late body":
            return Send((top, body), (0.6,), **given)
    return Send((top + body,), **given)


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


@dataclass(frozen=True, slots=True)
class Case:
    """Requests that belong together, and the sessions they are made in."""

    name: str
    steps: tuple[Request, ...]
    openings: tuple[Opening, ...] = (Opening(),)
    servers: frozenset[str] = frozenset()
    """Only these; empty: all."""
    counted: bool = True
    """At the end the first session is asked how many calls it has had."""
    seed: int = field(default=0, compare=False)

    @property
    def all_steps(self) -> tuple[Request, ...]:
        """With the question at the end."""
        if not self.counted or not self.openings:
            return self.steps
        headers = self.openings[0].headers
        return (*self.steps, Request(id='"how many"', headers=headers))
