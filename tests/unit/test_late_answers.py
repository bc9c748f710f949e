"""An answer that comes after its stream was opened is a message, whatever it was."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_persist_middleware.streams.buffered_answer import BufferedAnswer

JSON = [(b"Content-Type", b"application/json; charset=utf-8")]
HTML = [(b"content-type", b"text/html")]


def _message(status: int, headers: Any, body: bytes, request_id: Any = 1) -> Any:
    late = BufferedAnswer(status, headers, 1000)
    late.add(body)
    return json.loads(late.as_message(request_id))


def test_an_answer_to_the_request_goes_through_as_it_is() -> None:
    body = b' {"id": 1, "result": {}, "jsonrpc": "2.0"}\n'
    late = BufferedAnswer(200, JSON, 1000)
    late.add(body[:5])
    late.add(body[5:])
    assert late.as_message(1) == body


@pytest.mark.parametrize(
    ("status", "headers", "body"),
    [
        (500, HTML, b"<h1>oops</h1>"),
        (202, [], b""),
        (200, JSON, b'{"jsonrpc":"2.0","id":2,"result":{}}'),
        (200, JSON, b'{"jsonrpc":"2.0","id":"1","result":{}}'),
        (400, JSON, b'{"error":"no json-rpc"}'),
        (200, HTML, b'{"jsonrpc":"2.0","id":1,"result":{}}'),
        (401, JSON, b"{"),
    ],
)
def test_anything_else_becomes_an_error_with_its_status(
    status: int, headers: Any, body: bytes
) -> None:
    made = _message(status, headers, body)
    assert made["id"] == 1
    assert str(status) in made["error"]["message"]
    assert made["error"]["data"]["status"] == status


@given(st.lists(st.binary(max_size=400), max_size=8))
def test_no_body_is_kept_beyond_the_limit(parts: list[bytes]) -> None:
    late = BufferedAnswer(200, JSON, 1000)
    for part in parts:
        late.add(part)
        assert len(late._body) <= 1001
    made = json.loads(late.as_message(1))
    if sum(map(len, parts)) > 1000:
        assert "max_event_bytes" in made["error"]["message"]


@given(st.one_of(st.none(), st.integers(), st.text()))
def test_the_error_answers_the_id_that_was_asked(request_id: Any) -> None:
    assert _message(500, HTML, b"", request_id)["id"] == request_id
