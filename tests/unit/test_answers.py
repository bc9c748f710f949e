"""What an answer says of how its request went."""

import json
from typing import Any

import pytest

from mcp_persist_middleware.model import ExchangeOutcome
from mcp_persist_middleware.protocol import answers
from mcp_persist_middleware.protocol.answers import judged

OK, TOOL_ERROR = answers.OK, (ExchangeOutcome.TOOL_ERROR, "tool_error")


def response(separators: tuple[str, str] = (",", ":"), **what: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": 1, **what}, separators=separators).encode()


def error(code: Any, message: str = "no", size: int = 0) -> bytes:
    return response(error={"code": code, "message": message, "data": "x" * size})


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": "), (" ,\n", " :\n")])
def test_a_tool_says_of_itself_that_it_failed(separators: tuple[str, str]) -> None:
    assert judged(response(separators, result={"content": [], "isError": True})) == TOOL_ERROR
    assert judged(response(separators, result={"content": [], "isError": False})) == OK
    assert judged(response(separators, result={"content": []})) == OK


@pytest.mark.parametrize(
    "result",
    [
        {"content": [{"type": "text", "text": '"isError":true "error":{"code":1}'}]},
        {"structuredContent": {"isError": True, "error": {"code": 1}}, "isError": False},
        {"structuredContent": {"error": None}},
    ],
)
def test_what_a_result_is_about_is_no_error_of_its_own(result: Any) -> None:
    assert judged(response(result=result)) == OK


@pytest.mark.parametrize("size", [0, answers.MOST_PARSED])
def test_an_error_has_its_code(size: int) -> None:
    assert judged(error(-32602, size=size)) == (ExchangeOutcome.ERROR, "-32602")
    assert judged(error("text", size=size)) == (ExchangeOutcome.ERROR, "_OTHER")
    assert judged(response(error={}, size="x" * size))[0] is ExchangeOutcome.ERROR


def test_a_cancelled_request_is_no_failure_of_the_server() -> None:
    assert judged(error(-32800)) == (ExchangeOutcome.CANCELLED, "-32800")
    assert judged(error(0, "Request cancelled")) == (ExchangeOutcome.CANCELLED, "0")
    assert judged(error(0, "zero")) == (ExchangeOutcome.ERROR, "0")


def test_one_failure_of_a_batch_is_its_own() -> None:
    good = response(result={})
    assert judged(b"[" + good + b"," + error(-1) + b"]") == (ExchangeOutcome.ERROR, "-1")
    assert judged(b"[" + good + b"]") == OK


def test_a_large_result_is_looked_through_and_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    text = [{"type": "text", "text": "x" * answers.MOST_PARSED}]
    failed = response(result={"content": text, "isError": True})
    went = response(result={"structuredContent": {"error": 1}, "content": text, "isError": False})
    monkeypatch.setattr(json, "loads", None)
    assert judged(failed) == TOOL_ERROR
    assert judged(went) == OK


@pytest.mark.parametrize(
    "junk", [b"", b"[]", b'"error"', b'{"error":1}', b"[" * 100_000 + b'"error"']
)
def test_what_is_no_response_tells_nothing(junk: bytes) -> None:
    assert judged(junk) == OK
