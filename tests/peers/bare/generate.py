"""More requests, which nobody thought of: some fields of an ordinary one are made odd by a seed."""

import random
from typing import Any

from tests.peers.bare.requests import BODIES, MODERN, VERSION, Case, Request

_FIELDS: dict[str, list[tuple[float, Any]]] = {
    "method": [
        (5, "GET"),
        (2, "HEAD"),
        (2, "OPTIONS"),
        (2, "PUT"),
        (2, "DELETE"),
        (1, "PATCH"),
        (0.5, "PROPFIND"),
        (0.5, "TRACE"),
        (0.5, "post"),
    ],
    "target": [
        (3, "/mcp/"),
        (2, "/mcp?x=1"),
        (1, "/mcp/?x=1"),
        (1, "/mcp//"),
        (1, "/MCP"),
        (1, "/%6dcp"),
        (1, "/mcp/extra"),
        (1, "/health"),
        (1, "/echo"),
        (1, "/chat"),
        (0.5, "/"),
        (0.5, "//mcp"),
        (0.5, "/mcp#x"),
        (0.5, "/mcp%2f"),
        (0.5, "/mcp;x"),
        (0.5, "/mcp?last-event-id=1&mcp-session-id=2"),
    ],
    "accept": [
        (2, ("*/*",)),
        (2, ("application/json",)),
        (2, ("text/event-stream",)),
        (2, ()),
        (1, ("application/json", "text/event-stream")),
        (1, ("",)),
        (1, ("text/html",)),
        (1, ("APPLICATION/JSON, TEXT/EVENT-STREAM",)),
        (1, ("application/*, text/*",)),
        (1, ("application/json, text/event-stream;q=0",)),
        (1, ("application/json;q=0.5,text/event-stream",)),
    ],
    "content": [
        (2, ("application/json; charset=utf-8",)),
        (1, ("text/plain",)),
        (1, ()),
        (1, ("",)),
        (1, ("application/vnd.mcp+json",)),
        (1, ("application/json", "application/json")),
        (1, ("Application/JSON",)),
        (1, ("application/json; charset=utf-16",)),
        (1, ("application/json,",)),
        (1, ("application/jsonx",)),
        (1, ("application/json ;x",)),
    ],
    "version": [
        (2, ()),
        (2, ("2025-06-18",)),
        (1, ("2025-03-26",)),
        (1, ("2024-11-05",)),
        (2, (MODERN,)),
        (2, ("1999-01-01",)),
        (1, ("",)),
        (1, (VERSION, "2025-06-18")),
        (1, ("draft",)),
    ],
    "session": [(3, "none"), (2, "empty"), (3, "unknown"), (1, "twice"), (1, "spaced")],
    "cursor": [
        (2, "7"),
        (1, "x" * 300),
        (1, "own-1"),
        (1, "\xff"),
        (1, "a_b_c"),
    ],
    "does": [
        (2, "ping"),
        (1, "initialize"),
        (2, "notifications/initialized"),
        (1, "tools/list"),
        (2, "resources/list"),
        (1, "no/such"),
        (1, "logging/setLevel"),
        (1, "notifications/cancelled"),
        (1, ""),
        *((0.5, name) for name in BODIES),
    ],
    "tool": [
        (1, "nothing"),
        (1, ""),
        (1, "crash"),
        (1, "redirect"),
        (1, "own"),
        (1, "data"),
        (1, "unanswered"),
        (1, "packed"),
        (1, "fails"),
    ],
    "id": [
        (1, '"a"'),
        (1, '"550e8400-e29b-41d4-a716-446655440000"'),
        (1, "9223372036854775808"),
        (1, "1.0"),
        (1, "1.5"),
        (1, "null"),
        (1, "true"),
        (1, ""),
        (1, '""'),
        (1, "-1"),
        (1, "0"),
        (1, "{}"),
        (1, "[1]"),
        (1, "1e2"),
        (1, '"\\u00e9\\n"'),
        (1, '"' + "i" * 500 + '"'),
    ],
    "pad": [(2, 70_000), (1, 1_200_000), (0.3, 4_300_000), (0.2, 9_000_000)],
    "framing": [
        (2, "chunked"),
        (2, "many chunks"),
        (2, "slowly"),
        (1, "split head"),
        (1, "half close"),
        (1, "short"),
        (1, "expect"),
        (1, "close"),
        (1, "http 1.0"),
        (1, "no length"),
        (1, "late body"),
    ],
    "headers": [
        (2, (("cookie", "AWSALB=v1"),)),
        (1, (("cookie", "a=1"), ("cookie", "b=2"))),
        (1, (("authorization", "Bearer x"),)),
        (1, (("origin", "http://127.0.0.1"),)),
        (1, (("origin", "https://evil.example"),)),
        (2, (("accept-encoding", "gzip, br"),)),
        (1, (("x-forwarded-user", "ann"),)),
        (1, (("x-forwarded-for", "10.1.1.1"),)),
        (1, (("x-http-method-override", "DELETE"),)),
        (1, (("traceparent", "00-" + "1" * 32 + "-" + "2" * 16 + "-01"),)),
        (1, (("cache-control", "no-cache"),)),
        (1, (("x-long", "y" * 7000),)),
        (1, (("content-encoding", "gzip"),)),
        (1, (("upgrade", "websocket"), ("connection", "upgrade"))),
        (1, (("mcp-method", "x"),)),
        (1, (("range", "bytes=0-1"),)),
        (1, (("if-none-match", "*"),)),
    ],
    "modern": [(1, True)],
    "host": [(1, "evil.example"), (1, "localhost"), (0.3, "")],
}
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
            steps.append(
                Request(**{n: _chosen(choice, n) for n in choice.sample(sorted(_FIELDS), 1)})
            )
        cases.append(Case(f"seed {seed} number {number}", tuple(steps), seed=number))
    return cases


def _chosen(choice: random.Random, name: str) -> Any:
    weights, values = zip(*_FIELDS[name], strict=True)
    return choice.choices(values, weights)[0]
