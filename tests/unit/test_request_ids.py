"""Ids of the server's requests come back as they went out, and to their own generation only."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_persist_middleware.protocol import request_ids

IDS = st.one_of(st.integers(), st.text(), st.floats(allow_nan=False, allow_infinity=False))
LATER = st.integers(2, 9999)


def sent(generation: int, message: Any) -> Any:
    return json.loads(request_ids.to_client(generation, json.dumps(message).encode()))


def received(generation: int, message: Any) -> Any:
    body = request_ids.to_server(generation, json.dumps(message).encode())
    return None if body is None else json.loads(body)


@given(LATER, IDS)
def test_an_answer_finds_its_question(generation: int, request_id: Any) -> None:
    question = {"jsonrpc": "2.0", "id": request_id, "method": "ping"}
    out = sent(generation, question)
    assert isinstance(out["id"], str)
    for body in ({"result": {}}, {"error": {"code": 1, "message": ""}}):
        answer = {"jsonrpc": "2.0", "id": out["id"], **body}
        assert received(generation, answer) == {**answer, "id": request_id}


@given(LATER, LATER, IDS)
def test_an_answer_to_another_generation_finds_nobody(one: int, two: int, request_id: Any) -> None:
    out = sent(one, {"jsonrpc": "2.0", "id": request_id, "method": "ping"})
    answer = {"jsonrpc": "2.0", "id": out["id"], "result": {}}
    assert (received(two, answer) is None) is (one != two)
    if not (isinstance(request_id, str) and request_id.startswith("g")):
        assert received(two, {**answer, "id": request_id}) is None


@given(LATER, IDS)
def test_progress_and_cancellation_of_a_question_keep_its_id(generation: int, token: Any) -> None:
    params = {"_meta": {"progressToken": token}, "x": 1}
    out = sent(generation, {"jsonrpc": "2.0", "id": 1, "method": "m", "params": params})
    wire = out["params"]["_meta"]["progressToken"]
    assert out["params"]["x"] == 1
    progress = {"method": "notifications/progress", "params": {"progressToken": wire}}
    assert received(generation, progress)["params"] == {"progressToken": token}
    cancelled = {"method": "notifications/cancelled", "params": {"requestId": token}}
    assert sent(generation, cancelled)["params"]["requestId"] == wire


@pytest.mark.parametrize(
    "body",
    [
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x"}}',
        b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}',
        b'{"jsonrpc": "2.0", "method": "notifications/initialized"}',
        b"not json",
        b"[]",
        b"17",
    ],
)
def test_what_a_client_asks_is_left_as_it_is(body: bytes) -> None:
    assert request_ids.to_server(3, body) == body


def test_a_batch_is_taken_apart() -> None:
    ours = {"jsonrpc": "2.0", "id": "g3:1", "result": {}}
    late = {"jsonrpc": "2.0", "id": "g2:1", "result": {}}
    call = {"jsonrpc": "2.0", "id": 7, "method": "tools/list"}
    assert received(3, [ours, late, call]) == [{**ours, "id": 1}, call]
    assert received(3, [late]) is None


def test_what_is_no_question_of_the_server_is_sent_as_it_is() -> None:
    progress = b'{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1}}'
    assert request_ids.to_client(4, progress) is progress
