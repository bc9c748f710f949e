"""An odd request as data: each field has its ordinary value as default, so that what is odd about
a request is the fields that differ, and a request is shrunk by putting them back."""

import dataclasses
import json
import random
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
    listen: float = 0.4
    beside: bool = False
    """The next request is sent while this one is still answered."""

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


BODIES: dict[str, bytes] = {
    "nothing": b"",
    "no json": b"{",
    "a list": b"[]",
    "a batch": b'[{"jsonrpc":"2.0","id":1,"method":"ping"},{"jsonrpc":"2.0","id":2,"method":"ping"}]',
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
    "cancel nothing": b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":555}}',
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


_FIELDS: dict[str, list[tuple[float, Any]]] = {
    "method": [
        (5, "GET"), (2, "HEAD"), (2, "OPTIONS"), (2, "PUT"), (2, "DELETE"), (1, "PATCH"),
        (0.5, "PROPFIND"), (0.5, "TRACE"), (0.5, "post"),
    ],
    "target": [
        (3, "/mcp/"), (2, "/mcp?x=1"), (1, "/mcp/?x=1"), (1, "/mcp//"), (1, "/MCP"), (1, "/%6dcp"),
        (1, "/mcp/extra"), (1, "/health"), (1, "/echo"), (1, "/chat"), (0.5, "/"), (0.5, "//mcp"),
        (0.5, "/mcp#x"), (0.5, "/mcp%2f"), (0.5, "/mcp;x"), (0.5, "/mcp?last-event-id=1&mcp-session-id=2"),
    ],
    "accept": [
        (2, ("*/*",)), (2, ("application/json",)), (2, ("text/event-stream",)), (2, ()),
        (1, ("application/json", "text/event-stream")), (1, ("",)), (1, ("text/html",)),
        (1, ("APPLICATION/JSON, TEXT/EVENT-STREAM",)), (1, ("application/*, text/*",)),
        (1, ("application/json, text/event-stream;q=0",)), (1, ("application/json;q=0.5,text/event-stream",)),
    ],
    "content": [
        (2, ("application/json; charset=utf-8",)), (1, ("text/plain",)), (1, ()), (1, ("",)),
        (1, ("application/vnd.mcp+json",)), (1, ("application/json", "application/json")),
        (1, ("Application/JSON",)), (1, ("application/json; charset=utf-16",)), (1, ("application/json,",)),
        (1, ("application/jsonx",)), (1, ("application/json ;x",)),
    ],
    "version": [
        (2, ()), (2, ("2025-06-18",)), (1, ("2025-03-26",)), (1, ("2024-11-05",)), (2, (MODERN,)),
        (2, ("1999-01-01",)), (1, ("",)), (1, (VERSION, "2025-06-18")), (1, ("draft",)),
    ],
    "session": [(3, "none"), (2, "empty"), (3, "unknown"), (1, "twice"), (1, "spaced")],
    "cursor": [
        (2, "7"), (1, "x" * 300), (1, "own-1"), (1, "\xff"), (1, "a_b_c"),
    ],
    "does": [
        (2, "ping"), (1, "initialize"), (2, "notifications/initialized"), (1, "tools/list"),
        (2, "resources/list"), (1, "no/such"), (1, "logging/setLevel"), (1, "notifications/cancelled"),
        (1, ""), *((0.5, name) for name in BODIES),
    ],
    "tool": [(1, "nothing"), (1, ""), (1, "crash"), (1, "redirect"), (1, "own"), (1, "data"), (1, "unanswered"), (1, "packed"), (1, "fails")],
    "id": [
        (1, '"a"'), (1, '"550e8400-e29b-41d4-a716-446655440000"'), (1, "9223372036854775808"), (1, "1.0"),
        (1, "1.5"), (1, "null"), (1, "true"), (1, ""), (1, '""'), (1, "-1"), (1, "0"), (1, "{}"), (1, "[1]"),
        (1, "1e2"), (1, '"\\u00e9\\n"'), (1, '"' + "i" * 500 + '"'),
    ],
    "pad": [(2, 70_000), (1, 1_200_000), (0.3, 4_300_000), (0.2, 9_000_000)],
    "framing": [
        (2, "chunked"), (2, "many chunks"), (2, "slowly"), (1, "split head"), (1, "half close"),
        (1, "short"), (1, "expect"), (1, "close"), (1, "http 1.0"), (1, "no length"), (1, "late body"),
    ],
    "headers": [
        (2, (("cookie", "AWSALB=v1"),)), (1, (("cookie", "a=1"), ("cookie", "b=2"))),
        (1, (("authorization", "Bearer x"),)), (1, (("origin", "http://127.0.0.1"),)),
        (1, (("origin", "https://evil.example"),)), (2, (("accept-encoding", "gzip, br"),)),
        (1, (("x-forwarded-user", "ann"),)), (1, (("x-forwarded-for", "10.1.1.1"),)),
        (1, (("x-http-method-override", "DELETE"),)), (1, (("traceparent", "00-" + "1" * 32 + "-" + "2" * 16 + "-01"),)),
        (1, (("cache-control", "no-cache"),)), (1, (("x-long", "y" * 7000),)), (1, (("content-encoding", "gzip"),)),
        (1, (("upgrade", "websocket"), ("connection", "upgrade"))), (1, (("mcp-method", "x"),)), (1, (("range", "bytes=0-1"),)),
        (1, (("if-none-match", "*"),)),
    ],
    "modern": [(1, True)],
    "host": [(1, "evil.example"), (1, "localhost"), (0.3, "")],
}  # fmt: skip
_HOW_MANY = (1, 1, 2, 2, 2, 3, 3, 4)


def generated(count: int, seed: int) -> list[Case]:
    """Cases of one to four odd fields; the same for the same seed."""
    cases = []
    for number in range(count):
        choice = random.Random(f"{seed} {number}")
        names = choice.sample(sorted(_FIELDS), choice.choice(_HOW_MANY))
        odd = {name: _chosen(choice, name) for name in names}
        steps = [Request(**odd)]
        if choice.random() < 0.15:
            steps.append(Request(**{n: _chosen(choice, n) for n in choice.sample(sorted(_FIELDS), 1)}))
        cases.append(Case(f"seed {seed} number {number}", tuple(steps), seed=number))
    return cases


def _chosen(choice: random.Random, name: str) -> Any:
    weights, values = zip(*_FIELDS[name], strict=True)
    return choice.choices(values, weights)[0]
