"""A wrong setting is refused with a sentence that names it, and no secret is in it."""

import copy
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_persist_middleware.errors import ConfigurationError, PersistError, UnknownSettingError
from mcp_persist_middleware.model import Owner
from mcp_persist_middleware.settings import Settings, SettingsArguments, source_of
from mcp_persist_middleware.settings.arguments import Counts, Durations, KeySource, Sizes, Texts
from mcp_persist_middleware.settings.namespaces import in_namespace
from mcp_persist_middleware.stores import connect
from tests.support.documented import attribute_docs

BY_NAMESPACE = {
    "ttl": Durations,
    "max_kept_streams": Counts | None,
    "max_kept_bytes": Sizes | None,
}


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
        ("ttl", "90 minutes", 'such as "90s", "1h30m", "7d"'),
        ("ttl", "1M", 'such as "90s", "1h30m", "7d"'),
        ("ttl", "1h-30m", 'such as "90s", "1h30m", "7d"'),
        ("ttl", "", "a number of seconds"),
        ("max_store_bytes", "1kB", "at least 1048576"),
        ("max_kept_streams", 1.5, "a whole number"),
        ("lease_seconds", "500ms", "at least 1"),
        ("retry_ms", "1.5ms", "a whole number of milliseconds"),
        ("max_event_bytes", "64Mb", 'such as "64MiB", "4MB"'),
        ("max_event_bytes", "1kB", "at least 65536"),
        ("max_sessions", "1000", "a whole number of at least 1"),
        ("prime_json", 1, "True or False"),
        ("paths", "/mcp", '["/mcp"]'),
        ("paths", ["mcp"], '["/mcp"]'),
        ("table_prefix", "a b", "letters"),
        ("table_prefix", "é" * 20, "bytes"),
        ("table_prefix", "SQLite_a", "SQLite's own"),
        ("principal", "ann", "callable"),
        ("tasks_for", "render", '["render"], or a callable'),
        ("tasks_for", [""], '["render"], or a callable'),
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


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("ttl", "90s", 90),
        ("ttl", "24h", 86_400),
        ("ttl", "7d", 604_800),
        ("ttl", "1h30m", 5400),
        ("ttl", " 1 h 30 m ", 5400),
        ("ttl", "1.5h", 5400),
        ("ttl", "60", 60),
        ("ttl", "0.1", 0.1),
        ("store_timeout", "500ms", 0.5),
        ("prime_after", "250ms", 0.25),
        ("retry_ms", "3s", 3000),
        ("retry_ms", "500ms", 500),
        ("modern_retry_ms", "1.5s", 1500),
        ("max_event_bytes", "64MiB", 64 * 1024 * 1024),
        ("max_body_bytes", "4MB", 4_000_000),
        ("max_stream_bytes", "1.5GiB", 1_610_612_736),
        ("run_ahead_bytes", "65536", 65_536),
    ],
)
def test_durations_and_sizes_may_be_texts_as_arguments_and_in_the_environment(
    name: str, text: str, value: float
) -> None:
    variable = f"MCP_PERSIST_{name.upper()}"
    for made in (
        Settings.load({"url": "events.db", name: text}, {}),
        Settings.load({}, {"MCP_PERSIST_URL": "events.db", variable: text}),
    ):
        assert getattr(made, name) == value
    with pytest.raises(ConfigurationError, match=rf"\({variable}\) is '{text}x': expected"):
        Settings.load({"url": "events.db"}, {variable: text + "x"})


@given(st.timedeltas(timedelta(0), timedelta(days=999)))
def test_a_duration_is_the_sum_of_its_amounts(duration: timedelta) -> None:
    milliseconds = duration // timedelta(milliseconds=1)
    rest, amounts = milliseconds, ""
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)):
        amounts, rest = f"{amounts}{rest // size}{unit}", rest % size
    loaded = Settings.load({"url": "events.db", "ttl": amounts, "retry_ms": amounts}, {})
    assert (loaded.ttl, loaded.retry_ms) == (milliseconds / 1000, milliseconds)


def test_what_editors_know_of_the_arguments_is_what_the_settings_are() -> None:
    kept, taken = get_type_hints(Settings), get_type_hints(SettingsArguments)
    docs, told = attribute_docs(Settings), attribute_docs(SettingsArguments)
    assert docs.keys() == kept.keys()
    for spec in fields(Settings):
        name, annotation = spec.name, kept[spec.name]
        if name in ("url", "log"):  # parameters of their own
            assert name not in taken
            continue
        if spec.metadata["by_namespace"]:
            annotation = BY_NAMESPACE[name]
        elif spec.metadata["unit"] is not None:
            annotation |= str
        elif name == "journal_params":  # of every tool, or by tool
            annotation = Texts | Mapping[str, Texts]
        elif tuple[str, ...] in (annotation, *get_args(annotation)):
            annotation |= list[str]
        elif name == "encryption_keys":  # whatever a keyring is made of
            annotation = KeySource | None
        assert (name, taken.pop(name), told.pop(name)) == (name, annotation, docs[name])
        assert (type(None) in get_args(annotation)) == spec.metadata["none"]
    assert not taken | told


def test_an_unknown_name_is_told_the_nearest() -> None:
    with pytest.raises(UnknownSettingError, match="did you mean 'retry_ms'"):
        Settings.load({"url": "events.db", "retry_m": 1}, {})


@pytest.mark.parametrize("given", ["argument", "MCP_PERSIST_REDIS_DURABILITY"])
def test_a_setting_that_is_gone_is_refused_with_its_value_and_what_to_do_now(given: str) -> None:
    variables = {given: "sql"} if given != "argument" else {}
    arguments = {"redis_durability": "sql"} if given == "argument" else {}
    with pytest.raises(ConfigurationError) as raised:
        Settings.load({"url": "e.db", "redis": "redis://h", **arguments}, variables)
    assert f"'redis_durability' ({given}) is 'sql': it is no setting any more" in str(raised.value)
    assert "leave this out, and redis= too where the store has to have each event first" in str(
        raised.value
    )


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


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("URL", "mysql://u:hunter2@h/db"),
        ("URL", "://"),
        ("URL", ":memory:"),
        ("URL", "/no/such/directory/e.db"),
        ("URL", "postgresql://h/db?sslrootcert=/no/such/file"),
        ("REDIS", "http://u:hunter2@h"),
    ],
)
def test_what_is_wrong_in_the_environment_is_told_as_that(name: str, value: str) -> None:
    environ = {"MCP_PERSIST_URL": "events.db", f"MCP_PERSIST_{name}": value}
    with pytest.raises(ConfigurationError) as raised:
        connect.make_log(Settings.load({}, environ))
    assert f"(MCP_PERSIST_{name})" in str(raised.value)
    assert "hunter2" not in str(raised.value)
    assert ("mcp-persist reads MCP_PERSIST_URL too" in str(raised.value)) == (name == "URL")
    with pytest.raises(ConfigurationError, match=r"\(argument\)"):
        connect.make_log(Settings.load({"url": "e.db", name.lower(): value}, {}))


def test_a_variable_that_is_no_setting_is_warned_of_by_name(
    caplog: pytest.LogCaptureFixture,
) -> None:
    environ = {
        "MCP_PERSIST_URL": "events.db",
        "MCP_PERSIST_TLL": "5",
        "MCP_PERSIST_SQLITE_PATH": "hunter2",
        "MCP_PERSIST_LOG": "debug",
        "MCP_PERSIST_TEST_REDIS": "redis://h",
        "OTHER": "1",
    }
    Settings.load({}, environ)
    misspelt, stranger = caplog.messages
    assert "MCP_PERSIST_TLL in the environment is no setting" in misspelt
    assert "did you mean MCP_PERSIST_TTL?" in misspelt
    assert "MCP_PERSIST_SQLITE_PATH" in stranger
    assert "did you mean" not in stranger
    assert "mcp-persist" in stranger
    assert "hunter2" not in caplog.text


@pytest.mark.parametrize("url", ["~/e.db", "sqlite:///~/e.db", "sqlite+aiosqlite:///~/e.db"])
async def test_a_file_in_the_home_is_one_place_to_the_check_and_to_the_store(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir("/")
    log = connect.make_log(Settings.load({"url": url}, {}))
    await log.open("one")
    await log.aclose()
    assert (tmp_path / "e.db").is_file()


async def test_a_relative_file_stays_where_it_was_whatever_directory_the_process_goes_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (elsewhere := tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    settings = Settings.load({"url": "events.db"}, {})
    log = connect.make_log(settings)
    assert log.name.endswith(":///events.db")
    await log.open("one")
    monkeypatch.chdir(elsewhere)
    await log.ping()
    await log.aclose()
    # A lease was lost: the same settings, a new log.
    again = connect.make_log(settings)
    await again.open("two")
    await again.ping()
    await again.aclose()
    assert not list(elsewhere.iterdir())


def test_two_slashes_are_told_from_three() -> None:
    with pytest.raises(ConfigurationError, match="three slashes"):
        connect.make_log(Settings.load({"url": "sqlite://events.db"}, {}))


def test_settings_can_be_copied_and_are_equal_where_their_values_are() -> None:
    one = Settings.load({}, {"MCP_PERSIST_URL": "events.db"})
    for two in (copy.deepcopy(one), pickle.loads(pickle.dumps(one)), replace(one)):
        assert (two, hash(two)) == (one, hash(one))
        assert source_of(two.url) == "MCP_PERSIST_URL"
    assert one == Settings.load({"url": "events.db"}, {})


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


KEY = "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVowMTIzNDU="


@pytest.mark.parametrize(
    "given",
    [
        {"new": KEY, "old": b"o" * 32},
        f"new:{KEY},old:{'b29v' * 10}b28=",
        f"# the current one\nnew: {KEY}\n\nold:{'b29v' * 10}b28",
    ],
)
def test_keys_are_given_as_a_mapping_a_text_or_a_file(given: Any, tmp_path: Path) -> None:
    forms = [given]
    if isinstance(given, str):
        file = tmp_path / "keys"
        file.write_text(given)
        forms.append(f"file:{file}")
    for form in forms:
        settings = Settings.load({"url": "e.db", "encryption_keys": form}, {})
        keys = settings.encryption_keys
        assert keys is not None
        assert (keys.current, dict(keys)) == (
            "new",
            {"new": b"ABCDEFGHIJKLMNOPQRSTUVWXYZ012345", "old": b"o" * 32},
        )
        assert KEY[:8] not in repr(settings)
        assert settings == Settings.load({"url": "e.db", "encryption_keys": form}, {})
    if isinstance(given, str):
        environ = {"MCP_PERSIST_URL": "e.db", "MCP_PERSIST_ENCRYPTION_KEYS": given}
        assert Settings.load({}, environ).encryption_keys == keys


@pytest.mark.parametrize(
    "given",
    ["", "hunter2", "new:hunter2", f"new:{KEY},new:{KEY}", f"a b:{KEY}", {}, 5, "file:/no/such"],
)
def test_what_is_no_key_is_refused_and_not_shown(given: Any) -> None:
    with pytest.raises(ConfigurationError, match="encryption_keys") as raised:
        Settings.load({"url": "e.db", "encryption_keys": given}, {})
    assert "hunter2" not in str(raised.value)
    assert KEY not in str(raised.value)


FREE = Owner("free", "/mcp", "s", "ann")
OTHER = Owner("other", "/mcp", "s", "ann")


@pytest.mark.parametrize(
    ("given", "environ"),
    [
        ({"ttl": {"free": "1h", "default": "48h"}}, {}),
        ({}, {"MCP_PERSIST_TTL": "free=1h, default=48h"}),
        ({"ttl": lambda namespace: "1h" if namespace == "free" else 172_800}, {}),
    ],
    ids=["argument", "environment", "callable"],
)
def test_a_namespace_has_a_value_of_its_own(given: dict[str, Any], environ: dict[str, str]) -> None:
    loaded = Settings.load({"url": "events.db", **given}, environ)
    assert (loaded.kept_for(FREE), loaded.kept_for(OTHER)) == (3600, 172_800)
    assert loaded == Settings.load({"url": "events.db", **given}, environ)
    assert hash(loaded) == hash(Settings.load({"url": "events.db", **given}, environ))


def test_a_namespace_that_is_not_named_has_the_value_of_all() -> None:
    loaded = Settings.load({"url": "events.db", "ttl": {"free": 60}}, {})
    assert (loaded.kept_for(FREE), loaded.kept_for(OTHER)) == (60, 86_400)
    environ = {"MCP_PERSIST_MAX_KEPT_STREAMS": "free=100, a=b=none"}
    most = Settings.load({"url": "events.db"}, environ).max_kept_streams
    assert [in_namespace(most, each) for each in ("free", "a=b", "other")] == [100, None, None]


def test_a_value_of_one_namespace_is_checked_like_any_other() -> None:
    for value, fix in (({"free": "soon"}, "seconds"), ({"": 1}, "1 to 255")):
        with pytest.raises(ConfigurationError, match=fix):
            Settings.load({"url": "events.db", "ttl": value}, {})


@pytest.mark.parametrize("says", ["soon", None, -1])
def test_a_callable_that_says_nothing_of_use_costs_a_stream_no_more_than_its_own_time(
    says: Any,
) -> None:
    loaded = Settings.load({"url": "events.db", "ttl": lambda _: says}, {})
    assert loaded.kept_for(FREE) == 86_400
