"""Of a call's parameters the journal keeps what is allowed, and no more than a little."""

import json
from typing import Any

import pytest

from mcp_persist_middleware.errors import ConfigurationError
from mcp_persist_middleware.journal.params import AllowedParams
from mcp_persist_middleware.settings import Settings


def body(**arguments: Any) -> bytes:
    params = {"name": "search", "arguments": arguments}
    return json.dumps(
        {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    ).encode()


def test_what_is_not_named_is_not_kept() -> None:
    allowed = AllowedParams(("path", "search:query", "a:b:deep"))
    given = body(path="/x", query=[1, {"a": None}], token="secret", deep=1)
    assert json.loads(allowed.of(given, "search")) == {"path": "/x", "query": [1, {"a": None}]}
    assert json.loads(allowed.of(given, "other")) == {"path": "/x"}
    assert json.loads(allowed.of(given, "a:b")) == {"path": "/x", "deep": 1}
    assert allowed.of(body(token="secret"), "search") == b""
    assert allowed
    assert not AllowedParams(())


@pytest.mark.parametrize(
    "given", [b"", b"[]", b"no", b"[" * 100_000, b'{"params":{"arguments":[]}}']
)
def test_what_is_no_call_has_none(given: bytes) -> None:
    assert AllowedParams(("path",)).of(given, "search") == b""


def test_what_is_long_is_cut_and_what_is_large_is_left_out() -> None:
    allowed = AllowedParams(("a", "b", "c"))
    long = json.loads(allowed.of(body(a="x" * 5000), ""))
    assert long == {"a": "x" * 256 + "…"}
    kept = allowed.of(body(a=1, b=list(range(1000)), c="\ud800"), "")
    assert json.loads(kept) == {"a": 1}
    assert allowed.of(body(c="\ud800"), "") == b'{"c":"\\ud800"}'


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (["path"], ("path",)),
        (
            {"search": ("query", "lang"), "read": "path"},
            ("search:query", "search:lang", "read:path"),
        ),
    ],
)
def test_names_are_a_list_or_by_tool(given: Any, kept: tuple[str, ...]) -> None:
    assert Settings.load({"url": "a.db", "journal_params": given}, {}).journal_params == kept


def test_names_may_stand_in_the_environment() -> None:
    environ = {"MCP_PERSIST_URL": "a.db", "MCP_PERSIST_JOURNAL_PARAMS": "path, search:query"}
    environ["MCP_PERSIST_JOURNAL"] = "true"
    loaded = Settings.load({}, environ)
    assert (loaded.journal, loaded.journal_params) == (True, ("path", "search:query"))


@pytest.mark.parametrize("given", ["path", [1], {"search": 1}, [""], 5, {"search": [1]}])
def test_what_is_no_name_is_refused(given: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"journal_params.*search:query"):
        Settings.load({"url": "a.db", "journal_params": given}, {})
