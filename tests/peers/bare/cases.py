"""The requests that somebody met: bug reports, a hunt with raw sockets, a reading."""

from tests.peers.bare.asked import USERS
from tests.peers.bare.requests import MODERN, VERSION, Case, Opening, Request

_RAW = frozenset({"raw"})
_GET = {"method": "GET", "accept": ("text/event-stream",)}
_ANN = Opening(headers=(("authorization", "ann"),))
_A, _B = (("authorization", "ann"),), (("authorization", "bob"),)
_MADE_UP = "AZrAAAAAq83vEjRWeJCrze8SAAAAAQAAAAEB"


def tool(name: str, /, *, id: str = "1", **arguments: object) -> Request:  # noqa: A002
    """A call."""
    return Request(tool=name, arguments=tuple(arguments.items()), id=id)


def _with(request: Request, **odd: object) -> Request:
    fields = {name: getattr(request, name) for name in request.odd}
    return Request(**{**fields, **odd})  # type: ignore[arg-type]


def _named(*pairs: tuple[str, str]) -> tuple[tuple[str, str], ...]:
    return pairs


_AFFINITY = Request(headers=_named(("cookie", "AWSALB=v1")))
_ANYWHERE = [
    # A server that has had such an answer of this tool before knows better.
    Case(
        "a late large answer (A9)",
        (
            Request(modern=True),
            Request(
                tool="late",
                arguments=(("seconds", 2), ("size", 1_500_000)),
                modern=True,
                listen=3.0,
            ),
        ),
        (),
    ),
    Case("a call", (Request(),)),
    Case("another version of HTTP", (Request(framing="http 1.0"),)),
    Case(
        "an affinity cookie that begins and changes (A1)",
        (
            _AFFINITY,
            Request(headers=_named(("cookie", "AWSALB=v2"))),
            Request(),
        ),
    ),
    Case(
        "a cookie with each request (A1)",
        (_AFFINITY,),
        (Opening(headers=_named(("cookie", "s=1"))),),
    ),
    Case(
        "a signature for each request (A1)",
        (
            Request(headers=_named(("x-signature", "a1"))),
            Request(headers=_named(("x-signature", "b2"))),
        ),
    ),
    Case("a tool that nobody knows (A2)", (Request(), tool("nothing"), Request())),
    Case("a method that nobody knows (A2)", (Request(), Request(does="resources/list"), Request())),
    Case("a method that is none (A2)", (Request(), Request(does="no/such"), Request())),
    Case("a path with a slash (A3)", (Request(target="/mcp/"),)),
    Case("the stream, with a slash (A3)", (Request(target="/mcp/", **_GET),)),
    Case("a cursor, with a slash (A3)", (Request(target="/mcp/", cursor="7", **_GET),)),
    Case("DELETE, with a slash (A3)", (Request(target="/mcp/", method="DELETE"),)),
    *(
        Case(f"{method} with a session (A4)", (Request(method=method),))
        for method in ("HEAD", "OPTIONS", "PUT", "PATCH")
    ),
    Case("GET for anything (A4)", (Request(method="GET", accept=("*/*",)),)),
    Case("GET for nothing (A4)", (Request(method="GET", accept=()),)),
    Case("a content type twice (A4)", (Request(content=("application/json", "application/json")),)),
    Case("a vendor's content type (A4)", (Request(content=("application/vnd.mcp+json",)),)),
    Case("a plain content type (C3)", (Request(content=("text/plain",)),)),
    Case("an unknown version (A4, C3)", (Request(version=("1999-01-01",)),)),
    Case("no version (C3)", (Request(version=()),)),
    Case("2026-07-28 in its version alone (C3)", (Request(version=(MODERN,)),)),
    *(
        Case(f"{method} of {version} (C3)", (Request(method=method, version=(version,)),))
        for method in ("GET", "DELETE", "PUT")
        for version in (MODERN, "1999-01-01")
    ),
    Case("4.3 MB (A5)", (Request(pad=4_300_000),)),
    Case("9 MB (A5)", (Request(pad=9_000_000),)),
    Case("4.3 MB in chunks (A5)", (Request(pad=4_300_000, framing="many chunks"),)),
    Case("health (A6)", (Request(method="GET", target="/health"),)),
    Case("initialize with a stale session (A8)", (Request(does="initialize", session="unknown"),)),
    Case("initialize with an empty session (A8)", (Request(does="initialize", session="empty"),)),
    Case("initialize", (Request(does="initialize", session="none", version=()),)),
    Case("initialize in a session", (Request(does="initialize"),)),
    Case("a late answer", (_with(tool("late", seconds=1.6, size=10), listen=3.0),)),
    Case("a large answer", (tool("large", size=1_500_000),)),
    *(
        Case(f"the id {number[:40]} (A10, A13)", (Request(id=number),))
        for number in (
            '"550e8400-e29b-41d4-a716-446655440000"',
            "9223372036854775808",
            "1.0",
            "null",
            "0",
            '""',
            "-0.0",
        )
    ),
    Case("a quiet tool", (tool("slow", seconds=1.4),)),
    Case("steps", (tool("steps", n=5, delay=0.05),)),
    Case("a client that says that it is done (A16)", (Request(framing="half close"),)),
    Case("done, with a slow tool (A16)", (_with(tool("slow", seconds=0.5), framing="half close"),)),
    Case("compression wanted (A15)", (Request(headers=_named(("accept-encoding", "gzip"))),)),
    Case(
        "two streams of one session (C14)",
        (
            Request(beside=True, listen=1.0, **_GET),
            Request(listen=0.5, **_GET),
        ),
    ),
    Case("DELETE, and a call after it", (Request(method="DELETE"), Request())),
    Case("DELETE of an unknown one", (Request(method="DELETE", session="unknown"),)),
    Case("the stream of no session", (Request(session="none", **_GET),)),
    Case("the stream of an unknown session", (Request(session="unknown", **_GET),)),
    Case("the stream", (Request(**_GET),)),
    Case("a foreign cursor", (Request(cursor="7", **_GET),)),
    Case("a cursor on a POST", (Request(cursor="7"),)),
    Case("2026-07-28", (Request(modern=True),), ()),
    Case(
        "2026-07-28, steps",
        (Request(tool="steps", arguments=(("n", 3), ("delay", 0.05)), modern=True),),
        (),
    ),
    Case(
        "2026-07-28 with a session",
        (Request(modern=True, headers=_named(("mcp-session-id", "x"))),),
        (),
    ),
    Case("two credentials", (Request(headers=_A),), (_ANN,)),
    Case("an early session", (Request(version=("2025-03-26",)),), (Opening("2025-03-26"),)),
    Case("a session of before", (Request(version=("2025-06-18",)),), (Opening("2025-06-18"),)),
    Case("another host", (Request(host="evil.example"),)),
    Case("another origin", (Request(headers=_named(("origin", "https://evil.example"))),)),
]

_OF_RAW = [
    Case("own comments while quiet (A12)", (_with(tool("comments", n=5, delay=0.3), listen=2.5),)),
    Case("whole floats as integers (A13)", (tool("floats", id="1.0"),)),
    Case(
        "compressed JSON (A15)",
        (_with(tool("packed"), headers=_named(("accept-encoding", "gzip"))),),
    ),
    Case(
        "a stranger with the session's id (C1)",
        (
            _with(tool("ask"), beside=True, listen=2.5, headers=_A),
            Request(does="ping", headers=_B),
            Request(does="an answer", headers=_A),
        ),
        (_ANN,),
    ),
    Case(
        "a stranger's calls (C1)",
        (
            Request(headers=_A),
            Request(headers=_B),
            Request(method="GET", headers=_B),
            Request(method="DELETE", headers=_B),
            Request(cursor="7", headers=_B, **_GET),
        ),
        (_ANN,),
    ),
    *(
        Case(f"a call that is answered {code} (C2)", (tool("status", code=code),))
        for code in (201, 202, 204, 400, 401, 403, 404, 409, 410, 421, 429, 500, 503)
    ),
    *(
        Case(f"a refusal of 300 KB, {code} (C17)", (tool("status", code=code, size=300_000),))
        for code in (400, 401, 403, 404, 500)
    ),
    *(
        Case(
            f"a user named by {name} (C20)",
            (
                Request(headers=_named((name, "ann"))),
                Request(headers=_named((name, "bob"))),
                Request(method="DELETE", headers=_named((name, "bob"))),
            ),
            (Opening(headers=_named((name, "ann"))),),
        )
        for name in USERS[2:]
    ),
    Case("a redirect for a call", (tool("redirect"),)),
    Case("an exception before the head", (tool("crash"),)),
    Case("an exception in a body", (tool("breaks"),)),
    Case("ids of its own", (tool("own"),)),
    Case("odd frames", (tool("data"),)),
    Case("a stream without an answer", (tool("unanswered"),)),
    Case(
        "a question",
        (
            _with(tool("ask"), beside=True, listen=2.5),
            Request(does="an answer"),
        ),
    ),
    Case("a question without an answer", (_with(tool("ask"), listen=2.5),)),
    Case("headers of a stream", (tool("steps", n=2, delay=0.0),)),
    Case("a chat beside it", (Request(target="/chat", session="none", version=()),)),
    Case("a chat with our headers", (Request(target="/chat"),)),
    Case(
        "an echo", (Request(target="/echo", headers=_named(("cookie", "a=1"), ("cookie", "b=2"))),)
    ),
    Case("a wrong version in initialize", (Request(does="empty initialize", session="none"),)),
    Case(
        "bodies of all sizes",
        tuple(
            Request(target="/echo", pad=size, framing=framing)
            for size in (0, 1, 65_536, 1_000_000)
            for framing in ("length", "chunked")
        ),
    ),
]

CASES: list[Case] = [
    *_ANYWHERE,
    *(Case(case.name, case.steps, case.openings, _RAW, case.counted) for case in _OF_RAW),
]
__all__ = ["CASES", "MODERN", "VERSION", "tool"]
