"""The forms of `redis=`: read right, or refused with what to write instead, never with a secret."""

import importlib.util
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_persist_middleware import Settings
from mcp_persist_middleware.errors import ConfigurationError, MissingDriverError, PersistError
from mcp_persist_middleware.stores import connect
from mcp_persist_middleware.stores.redis import url as redis_url


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("redis://localhost", "redis://localhost:6379/0"),
        ("redis://u:hunter2@h:7000/3", "redis://h:7000/3"),
        ("rediss://:hunter2@h", "rediss://h:6379/0"),
        ("redis://[::1]:6380/1", "redis://::1:6380/1"),
        (
            "redis+sentinel://u:hunter2@a,b:7/main/2?sentinel_password=hunter2",
            "redis+sentinel://a:26379,b:7/main/2",
        ),
        ("rediss+cluster://:hunter2@a:1,b:2", "rediss+cluster://a:1,b:2"),
    ],
)
def test_every_form_is_understood_and_shown_without_its_secrets(url: str, name: str) -> None:
    assert redis_url.parse(url).name == name


def test_passwords_are_decoded_and_kept() -> None:
    target = redis_url.parse("redis+sentinel://u:p%40ss@a/main?sentinel_password=s%20p")
    assert (target.username, target.password, target.sentinel_password) == ("u", "p@ss", "s p")
    assert (target.service, target.database) == ("main", 0)


@pytest.mark.parametrize(
    "url",
    [
        "localhost:6379",
        "http://u:hunter2@h/0",
        "redis://u:hunter2@/0",
        "redis://u:hunter2@h:port/0",
        "redis://u:hunter2@h/zero",
        "redis://u:hunter2@h/0/1",
        "redis://u:hunter2@h/0?db=1",
        "redis://u:hunter2@a,b/0",
        "redis+sentinel://u:hunter2@a",
        "redis+cluster://u:hunter2@a/1",
        "redis+other://u:hunter2@a",
    ],
)
def test_other_forms_are_refused_with_the_right_one(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"expected redis(\+\w+)?://") as raised:
        connect.make_log(Settings.load({"url": "events.db", "redis": url}, {}))
    assert "hunter2" not in str(raised.value)


@given(st.text(max_size=30), st.text(max_size=30))
def test_no_url_gives_anything_but_a_clear_error(before: str, after: str) -> None:
    secret = "hunter2-secret"
    for url in (f"{before}://u:{secret}@{after}", f"redis+sentinel://u:{secret}@{after}"):
        try:
            redis_url.parse(url)
        except PersistError as error:
            assert secret not in str(error)  # noqa: PT017


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n == "redis" else find(n))
    with pytest.raises(MissingDriverError, match=r"mcp-persist-middleware\[redis\]"):
        connect.make_log(Settings.load({"url": "events.db", "redis": "redis://u:pw@h"}, {}))


def test_a_wrong_value_is_not_shown() -> None:
    with pytest.raises(ConfigurationError, match="hidden"):
        Settings.load({"url": "events.db", "redis": ""}, {})
    settings = Settings.load({"url": "e.db"}, {"MCP_PERSIST_REDIS": "redis://h"})
    assert settings.redis == "redis://h"


def test_of_tls_only_files_that_are_there_are_taken(tmp_path: Path) -> None:
    (authority := tmp_path / "ca.pem").touch()
    target = redis_url.parse(f"rediss+sentinel://a/main?ssl_ca_certs={authority}")
    assert target.files == (("ssl_ca_certs", str(authority)),)
    assert target.name == "rediss+sentinel://a:26379/main/0"
    for url in (
        "rediss://h/0?ssl_cert_reqs=none",
        "rediss://h/0?ssl_check_hostname=false",
        f"rediss://h/0?ssl_ca_certs={tmp_path}/none",
        f"redis://h/0?ssl_ca_certs={authority}",
    ):
        with pytest.raises(ConfigurationError):
            redis_url.parse(url)
