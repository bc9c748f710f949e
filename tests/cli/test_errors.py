"""Every way in which a store cannot be used is one sentence on stderr, without a secret, and exit
code 2."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.scene import Scene, run

SECRET = "hunter2"
NOBODY = f"postgresql://ann:{SECRET}@127.0.0.1:9/db"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("mysql://ann:hunter2@db/x", "this version stores in SQLite and PostgreSQL"),
        ("postgresql://ann:hunter2@h:port/x", "is 'postgresql://…'"),
        ("sqlite:///:memory:", "a store in memory is lost with the process"),
        ("sqlite:////nowhere/at/all/x.db", "the directory /nowhere/at/all does not exist"),
        ("nothing.db", "cannot be opened: the file is not there"),
        (NOBODY, "Check that a PostgreSQL server listens at 127.0.0.1:9"),
    ],
)
def test_a_wrong_url(url: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ran = run("stats", "--url", url)
    assert (ran.code, ran.out) == (2, "")
    assert said in ran.err
    assert SECRET not in ran.err
    assert ran.err.count("\n") == 1


def test_no_store_at_all() -> None:
    ran = run("stats")
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert "no store is named" in ran.err


def test_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "asyncpg" else found(name)
    )
    ran = run("stats", "--url", NOBODY)
    assert ran.code == 2
    assert 'install the extra "mcp-persist-middleware[postgres]"' in ran.err
    assert SECRET not in ran.err


def test_no_database(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("no database, but a text that is longer than a header\n" * 9)
    ran = run("stats", "--url", str(tmp_path / "text.db"))
    assert ran.code == 2
    assert "file is not a database" in ran.err


def test_a_wrong_setting_in_the_environment(scene: Scene) -> None:
    ran = scene.run("stats", MCP_PERSIST_TTL="soon")
    assert ran.code == 2
    assert "MCP_PERSIST_TTL" in ran.err


def test_a_missing_key_costs_the_events_alone(fresh: Callable[..., Scene]) -> None:
    scene = fresh(encryption_keys="k:AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=")
    del scene.environ["MCP_PERSIST_ENCRYPTION_KEYS"]
    shown = scene.run("streams", "show", scene.finished, "--payloads", "--json").json
    assert shown["list"][0]["data"] == (
        "(cannot be read: it is encrypted, and there are no encryption_keys)"
    )
