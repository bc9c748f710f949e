"""JSON-RPC as far as the log has to understand it, and what a request is to us."""

import json
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_persist_middleware.model import EventKind
from mcp_persist_middleware.protocol import classify, eras, jsonrpc
from mcp_persist_middleware.protocol.classify import RequestKind
from mcp_persist_middleware.settings import Settings

SETTINGS = Settings()
IDS = st.one_of(st.integers(-(10**20), 10**20), st.text(max_size=20), st.none())
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=8)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=8,
)
METHODS = st.sampled_from(
    ["notifications/progress", "notifications/message", "notifications/x", "ping", 'quoted"name']
)
MESSAGES = st.one_of(
    st.fixed_dictionaries({"method": METHODS}, optional={"params": VALUES}),
    st.fixed_dictionaries({"method": METHODS.filter(lambda m: "/" not in m), "id": IDS}),
    st.fixed_dictionaries({"id": IDS, "result": VALUES}),
    st.fixed_dictionaries({"id": IDS, "error": VALUES}),
)


def truth(message: dict[str, Any]) -> tuple[EventKind, tuple[str, ...]]:
    """What a message is, after a full parse."""
    method = message.get("method")
    if method is None:
        return EventKind.RESPONSE, (json.dumps(message["id"]),)
    if method in ("notifications/progress", "notifications/message"):
        return EventKind.NOISE, ()
    return (EventKind.MESSAGE if method.startswith("notifications/") else EventKind.REQUEST), ()


@given(MESSAGES, st.randoms(), st.sampled_from([None, 1, "\t"]), st.booleans())
def test_a_message_is_recognised_in_any_order_and_spacing(
    message: dict[str, Any], chance: Any, indent: Any, ascii_only: bool
) -> None:
    items = [*message.items(), ("jsonrpc", "2.0")]
    chance.shuffle(items)
    text = json.dumps(dict(items), indent=indent, ensure_ascii=ascii_only)
    kind, answered = jsonrpc.scan(text.encode("utf-8", "surrogatepass"))
    expected, keys = truth(message)
    if expected is EventKind.REQUEST and "id" not in message:
        assert kind in (EventKind.REQUEST, EventKind.MESSAGE)
    else:
        assert (kind, answered) == (expected, keys)


@given(st.binary(max_size=80))
def test_no_bytes_break_the_scanner_or_the_parser(data: bytes) -> None:
    jsonrpc.scan(data)
    jsonrpc.parse(data)


def test_depth_does_not_break_it_either() -> None:
    deep = b"[" * 200_000
    assert jsonrpc.scan(deep) == (EventKind.MESSAGE, ())
    assert jsonrpc.parse(deep) is None


def test_a_batch_answers_each_of_its_ids() -> None:
    batch = json.dumps([{"id": 1, "result": {}}, {"id": "1", "error": {}}]).encode()
    assert jsonrpc.scan(batch) == (EventKind.RESPONSE, ("1", '"1"'))
    call = jsonrpc.parse(
        b'[{"jsonrpc":"2.0","id":1,"method":"a"},{"jsonrpc":"2.0","method":"notifications/b"}]'
    )
    assert call is not None
    assert call.request_ids == (1,)


SSE = (b"accept", b"application/json, text/event-stream")
JSON = (b"content-type", b"application/json")
SESSION = (b"mcp-session-id", b"s")


def version(text: str) -> tuple[bytes, bytes]:
    return (b"mcp-protocol-version", text.encode())


CALL = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t"}}'
GREETING = (
    b'{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25"}}'
)
NOTE = b'{"jsonrpc":"2.0","method":"notifications/initialized"}'
LISTEN = b'{"jsonrpc":"2.0","id":1,"method":"subscriptions/listen"}'
CURSOR = (b"last-event-id", b"A" * 22 + b"p-1-1-i1")
FOREIGN = (b"last-event-id", b"42")


@pytest.mark.parametrize(
    ("method", "headers", "body", "known", "kind"),
    [
        ("POST", [JSON, SSE, SESSION], CALL, False, RequestKind.EXCHANGE),
        ("POST", [JSON, SSE, version("2025-06-18")], CALL, False, RequestKind.EXCHANGE),
        ("POST", [JSON, SSE, version("2026-07-28")], CALL, False, RequestKind.EXCHANGE),
        ("POST", [JSON, SSE], GREETING, False, RequestKind.EXCHANGE),
        ("POST", [JSON, SSE], CALL, True, RequestKind.EXCHANGE),
        ("POST", [JSON, SSE], CALL, False, RequestKind.PASS),  # another protocol on another path
        ("POST", [JSON, SSE, SESSION], NOTE, False, RequestKind.PASS),
        ("POST", [JSON, SSE, SESSION], b'{"id":1,"result":{}}', False, RequestKind.PASS),
        ("POST", [JSON, SESSION], CALL, False, RequestKind.PASS),  # reads no event stream
        (
            "POST",
            [SSE, SESSION],
            CALL,
            False,
            RequestKind.EXCHANGE,
        ),  # the application judges the type
        ("POST", [JSON, SSE, version("2026-07-28")], LISTEN, False, RequestKind.LISTEN),
        ("POST", [JSON, SSE, version("2099-01-01")], CALL, True, RequestKind.PASS),
        ("POST", [JSON, SSE, SESSION, version("2099-01-01")], CALL, True, RequestKind.SESSION),
        ("GET", [SESSION], b"", True, RequestKind.SESSION),
        ("PUT", [SESSION], b"{}", False, RequestKind.SESSION),
        ("GET", [SSE, SESSION], b"", False, RequestKind.STREAM),
        ("GET", [SSE, version("2026-07-28"), SESSION], b"", False, RequestKind.SESSION),
        ("GET", [SSE, version("2026-07-28")], b"", False, RequestKind.PASS),
        ("DELETE", [version("2026-07-28"), SESSION], b"", False, RequestKind.DELETE),
        ("GET", [SSE, CURSOR], b"", False, RequestKind.RESUME),
        ("GET", [SSE, CURSOR, version("2026-07-28")], b"", False, RequestKind.RESUME),
        ("GET", [SSE, FOREIGN], b"", False, RequestKind.PASS),
        ("GET", [SSE, FOREIGN, SESSION], b"", False, RequestKind.FOREIGN_CURSOR),
        ("DELETE", [SESSION], b"", False, RequestKind.DELETE),
        ("DELETE", [], b"", True, RequestKind.PASS),
        ("HEAD", [SSE, SESSION], b"", True, RequestKind.SESSION),
        ("OPTIONS", [SSE, SESSION, CURSOR], b"", True, RequestKind.SESSION),
    ],
)
def test_a_request_is_what_its_head_and_body_say(
    method: str, headers: Any, body: bytes, known: bool, kind: RequestKind
) -> None:
    found = classify.by_head(method, headers, SETTINGS, known_path=known)
    if found.kind is RequestKind.BODY:
        found = classify.by_body(found, headers, body, known_path=known)
    assert found.kind is kind


def test_2026_07_28_passes_where_it_is_to_be_left_alone() -> None:
    alone = Settings(modern_streams="pass")
    for method, head in (("POST", [JSON, SSE]), ("GET", [SSE, CURSOR])):
        head.append(version("2026-07-28"))
        assert classify.by_head(method, head, alone, known_path=True).kind is RequestKind.PASS
    head = [JSON, SSE, version("2026-07-28"), SESSION]  # its session may be ours
    assert classify.by_head("POST", head, alone, known_path=True).kind is RequestKind.SESSION


QUESTIONS = {
    # version: sessions, may prime, a disconnect cancels, JSON per answer, retry, left alone, tasks
    "2024-11-05": (True, False, False, False, 1, False, None),
    "2025-03-26": (True, False, False, False, 1, False, None),
    "2025-06-18": (True, False, False, False, 1, False, None),
    "2025-11-25": (True, True, False, False, 1, False, "core"),
    "2026-07-28": (False, True, True, True, 2, True, "extension"),
}


def test_every_question_about_every_revision_has_this_answer() -> None:
    settings = Settings(retry_ms=1, modern_retry_ms=2, modern_streams="pass")
    answers = {
        version: (
            era.keeps_sessions,
            era.may_prime,
            era.disconnect_cancels,
            era.json_per_answer,
            era.retry_ms(settings),
            era.is_left_alone(settings),
            era.tasks,
        )
        for version, era in eras.ERAS.items()
    }
    assert answers == QUESTIONS
    asked = [field for field in fields(eras.Era) if field.name != "versions"]
    assert all(len(each) == len(asked) for each in QUESTIONS.values()), "a question is missing"


def test_a_version_that_is_not_said_is_2025_03_26_and_one_that_nobody_knows_none() -> None:
    assert eras.era_of(None) is eras.ERAS["2025-03-26"]
    assert eras.era_of("2099-01-01") is None
    assert not eras.era_of_initialize("2099-01-01").may_prime
    assert eras.era_of_initialize("2026-07-28").keeps_sessions


def test_equal_numbers_are_one_request_and_a_text_is_another() -> None:
    assert jsonrpc.key(1.0) == jsonrpc.key(1) == jsonrpc.scan(b'{"id":1.0,"result":{}}')[1][0]
    assert len({jsonrpc.key(each) for each in (1, "1", 1.5, "1.0")}) == 4
    assert jsonrpc.key(2**70) == str(2**70)


def test_an_error_for_an_id_that_json_cannot_say_is_json() -> None:
    said = jsonrpc.error(float("inf"), "gone", {}, jsonrpc.INTERRUPTED)
    assert json.loads(said, parse_constant=pytest.fail)["id"] is None
