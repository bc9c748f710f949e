"""A wrong setting is refused with a sentence that names it, and no secret is in it."""

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_persist_middleware.errors import ConfigurationError, PersistError, UnknownSettingError
from mcp_persist_middleware.log import connect
from mcp_persist_middleware.settings import Settings


@pytest.mark.parametrize(
    ("name", "value", "fix"),
    [
        ("synchronous", "off", "'normal', 'full'"),
        ("modern_streams", "no", "'resume', 'pass'"),
        ("on_store_failure", "", "'degrade', 'refuse'"),
        ("retry_ms", -1, "at least 0"),
        ("retry_ms", 1.5, "a whole number"),
        ("ttl", "long", "a number"),
        ("ttl", float("nan"), "a number"),
        ("ttl", None, "cannot be None"),
        ("prime_json", 1, "True or False"),
        ("paths", "/mcp", '["/mcp"]'),
        ("paths", ["mcp"], '["/mcp"]'),
        ("table_prefix", "a b", "letters"),
        ("table_prefix", "é" * 20, "bytes"),
        ("table_prefix", "SQLite_a", "SQLite's own"),
        ("principal", "ann", "callable"),
        ("engine", "sqlite://", "AsyncEngine"),
        ("namespace", "", "1 to 255"),
    ],
)
def test_a_wrong_value_is_named_with_its_fix(name: str, value: Any, fix: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        Settings.load({"url": "events.db", name: value}, {})
    assert name in str(raised.value)
    assert repr(value) in str(raised.value)
    assert fix in str(raised.value)


def test_an_unknown_name_is_told_the_nearest() -> None:
    with pytest.raises(UnknownSettingError, match="did you mean 'retry_ms'"):
        Settings.load({"url": "events.db", "retry_m": 1}, {})


def test_the_environment_is_read_and_the_argument_wins() -> None:
    environ = {
        "MCP_PERSIST_URL": "a.db",
        "MCP_PERSIST_RETRY_MS": "7",
        "MCP_PERSIST_PRIME_AFTER": "none",
        "MCP_PERSIST_PRIME_JSON": "true",
        "MCP_PERSIST_PATHS": "/a, /b/",
        "MCP_PERSIST_TTL": "9",
    }
    made = Settings.load({"ttl": 5}, environ)
    assert (made.url, made.retry_ms, made.prime_after) == ("a.db", 7, None)
    assert (made.prime_json, made.paths, made.ttl) == (True, ("/a", "/b"), 5)
    with pytest.raises(ConfigurationError, match="MCP_PERSIST_TTL"):
        Settings.load({}, environ | {"MCP_PERSIST_TTL": "soon"})


def test_a_store_that_is_tried_for_longer_than_the_lease_is_refused() -> None:
    with pytest.raises(ConfigurationError) as raised:
        Settings.load({"url": "events.db", "store_timeout": 3, "lease_seconds": 3}, {})
    assert "store_timeout (3 s) must be shorter than lease_seconds (3 s)" in str(raised.value)
    assert "raise the other" in str(raised.value)


def test_no_store_and_two_stores_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="no store is named"):
        Settings.load({}, {})


@dataclass
class _Unhashable:
    secret: str

    def __call__(self, *_: Any) -> Any:
        """Never called."""


@pytest.mark.parametrize("name", ["log", "persist", "principal", "revive", "rerun", "namespace"])
def test_a_callable_that_cannot_be_hashed_is_refused_with_the_fix(name: str) -> None:
    store = {} if name == "log" else {"url": "events.db"}
    with pytest.raises(ConfigurationError, match="frozen=True") as raised:
        Settings.load({**store, name: _Unhashable("hunter2")}, {})
    assert f"Setting {name!r}" in str(raised.value)
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize("value", ["postgresql://u:hunter2@h/db", ["hunter2"]])
def test_what_is_given_as_log_is_not_shown(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="a callable of the Settings") as raised:
        Settings.load({"log": value}, {})
    assert "hunter2" not in str(raised.value)


def test_a_level_of_logging_in_the_environment_is_no_store() -> None:
    assert Settings.load({"url": "events.db"}, {"MCP_PERSIST_LOG": "debug"}).log is None


def test_two_stores_are_refused_and_the_variable_is_named() -> None:
    with pytest.raises(ConfigurationError, match="url and log are given together"):
        Settings.load({"url": "events.db", "log": print}, {})
    with pytest.raises(ConfigurationError, match=r"MCP_PERSIST_URL .* and log are given together"):
        Settings.load({"log": print}, {"MCP_PERSIST_URL": "events.db"})


@pytest.mark.parametrize(
    ("url", "fix"),
    [
        ("mysql://u:hunter2@h/db", "stores in SQLite and PostgreSQL"),
        ("postgresql+psycopg://u:hunter2@h/db?password=hunter2", "postgresql+asyncpg://"),
        ("sqlite://", "in memory"),
        (":memory:", "in memory"),
        ("sqlite:////no/such/directory/events.db", "/no/such/directory does not exist"),
        ("://hunter2", "expected sqlite+aiosqlite:///events.db or"),
    ],
)
def test_a_url_of_no_use_is_refused_without_its_password(url: str, fix: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        connect.make_log(Settings.load({"url": url}, {}))
    assert fix in str(raised.value)
    assert "hunter2" not in str(raised.value)


@given(st.text(min_size=1, max_size=30))
def test_no_url_gives_anything_but_a_clear_error(text: str) -> None:
    secret = "hunter2-secret"
    try:
        connect.parse_url(f"{text}://user:{secret}@host/x")
    except PersistError as error:
        assert secret not in str(error)  # noqa: PT017


@pytest.mark.parametrize(
    "url", ["events.db", "sqlite:///events.db", "sqlite+aiosqlite:///events.db"]
)
def test_plain_forms_get_the_async_driver(url: str) -> None:
    assert str(connect.parse_url(url)) == "sqlite+aiosqlite:///events.db"


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+asyncpg"])
def test_plain_forms_of_postgres_do_too(scheme: str) -> None:
    found = connect.parse_url(f"{scheme}://ann@host/db")
    assert str(found) == "postgresql+asyncpg://ann@host/db"


def test_a_client_of_2026_tries_once_within_the_grace_and_once_after_a_restart() -> None:
    """Its two attempts are `modern_retry_ms` apart; then it gives up, and some hang."""
    defaults = Settings.load({"url": "events.db"}, {})
    first = defaults.modern_retry_ms / 1000
    assert first < defaults.disconnect_grace - 1
    assert 2 * first >= 4
