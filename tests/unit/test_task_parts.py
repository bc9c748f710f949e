"""What tasks are made of: ids, names in headers, and parts of messages as they were written."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_persist_middleware.protocol import headers, job_id, jsonrpc

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(VALUES, st.dictionaries(st.text(), VALUES, max_size=4), st.sampled_from([None, 1, "\t"]))
def test_a_member_is_found_as_it_is_written(value: object, others: object, indent: object) -> None:
    assert isinstance(others, dict)
    whole = {**others, "result": value, "last": 1}
    text = json.dumps(whole, indent=indent)  # type: ignore[arg-type]
    found = jsonrpc.member(text.encode(), "result")
    assert found is not None
    assert json.loads(found) == value
    assert found.decode() in text


@pytest.mark.parametrize(
    "text",
    [b"", b"[]", b"7", b"{", b'{"result"', b'{"result":', b'{"result":1', b'{"a":{"result":1}}'],
)
def test_what_is_no_object_or_has_no_such_member_has_none(text: bytes) -> None:
    assert jsonrpc.member(text, "result") is None


def test_of_two_members_of_a_name_the_last_counts_and_nothing_is_rewritten() -> None:
    text = b'{"result":1, "result" :\t{"a":1.50,"b":"\\u00e9\\ud800"} }'
    assert jsonrpc.member(text, "result") == b'{"a":1.50,"b":"\\u00e9\\ud800"}'


@given(st.floats(0, 4e9))
def test_ids_are_in_the_order_of_time_and_no_other_text_is_one(now: float) -> None:
    one, two = job_id.new(now), job_id.new(now + 1)
    assert one < two
    assert job_id.parse(job_id.name(one)) == one
    for text in ("", "x" * 31, "x" * 33, "x" * 31 + "\n", "x" * 31 + "é", "x" * 31 + "="):
        assert job_id.parse(text) is None


@given(st.text(min_size=1))
def test_a_name_that_no_header_can_have_is_wrapped(name: str) -> None:
    packed = base64.b64encode(name.encode("utf-8", "replace")).decode()
    raw = [(b"Mcp-Name", f" =?base64?{packed}?= ".encode())]
    assert headers.named(raw) == name.encode("utf-8", "replace").decode()


@pytest.mark.parametrize(
    ("value", "name"),
    [(b" plain ", "plain"), (b"=?base64?!?=", None), (b"=?base64?_w==?=", None), (b"", None)],
)
def test_other_names_stand_for_themselves(value: bytes, name: str | None) -> None:
    assert headers.named([(b"mcp-name", value)]) == name
    assert headers.named([]) is None
