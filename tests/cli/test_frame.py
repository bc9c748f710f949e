"""The command line as a whole: what it needs, which store it takes, how it ends."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mcp_persist_middleware.errors import ConfigurationError
from mcp_persist_middleware.ops import cli
from mcp_persist_middleware.ops.output import Column, Output
from mcp_persist_middleware.ops.store_options import StoreOptions

APPS = """
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.middleware import Middleware
from mcp_persist_middleware import PersistMiddleware

bare = Starlette()
added = Starlette()
added.add_middleware(PersistMiddleware, url="added.db", ttl=60)
given = FastAPI(middleware=[Middleware(PersistMiddleware, url="given.db")])
wrapped = PersistMiddleware(bare, "wrapped.db")

def make():
    return wrapped
"""


@pytest.fixture
def apps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "served_apps.py").write_text(APPS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.delitem(sys.modules, "served_apps", raising=False)
    return "served_apps"


def test_without_its_extra_one_sentence_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "typer" else found(name)
    )
    assert cli.main(["stats"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == (
        "The command line needs typer, which the extra cli brings: "
        'pip install "mcp-persist-middleware[cli]"\n'
    )


def test_the_proxy_runs_without_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "_NEEDS", ("nothing_of_this_name",))
    with pytest.raises(SystemExit):
        cli.main(["proxy", "--help"])
    assert "--upstream URL" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--version"], 0, "mcp-persist-middleware "),
        (["--help"], 0, "proxy"),
        (["demo", "--calls", "0"], 2, "--calls"),
        (["nonsense"], 2, "nonsense"),
    ],
)
def test_the_exit_code_says_how_it_ended(
    arguments: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == code
    printed = capsys.readouterr()
    assert said in printed.out + printed.err


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("added", "added.db"),
        ("given", "given.db"),
        ("wrapped", "wrapped.db"),
        ("make()", "wrapped.db"),
    ],
)
def test_the_store_is_the_one_of_the_middleware_in_an_application(
    apps: str, name: str, url: str
) -> None:
    assert StoreOptions(app=f"{apps}:{name}").settings().url == url


def test_the_settings_of_the_middleware_are_read_too(apps: str) -> None:
    assert StoreOptions(app=f"{apps}:added").settings().ttl == 60


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"app": "served_apps:bare"}, "no PersistMiddleware in the application"),
        ({"app": "served_apps:other"}, "served_apps:other: AttributeError"),
        ({"app": "no_such_module:app"}, "ModuleNotFoundError"),
        ({"app": "served_apps"}, "expected module:app"),
        ({"app": "served_apps:added", "url": "x.db"}, "--app and --url are given together"),
        ({}, "no store is named"),
        ({"url": "mysql://u:secret@h/db"}, None),
    ],
)
def test_what_names_no_store_is_refused_with_its_reason(
    apps: str, options: dict[str, str], said: str | None
) -> None:
    if said is None:
        assert StoreOptions(**options).settings().url == options["url"]
        return
    with pytest.raises(ConfigurationError, match=said):
        StoreOptions(**options).settings()


def test_what_a_client_has_said_does_nothing_to_a_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = Output()
    out.say("a\x1b[2Jb\nc")
    out.table([Column("name", "NAME")], [{"name": "\x1b]0;x\x07"}], "")
    assert capsys.readouterr().out.split() == ["a\\x1b[2Jb", "c", "NAME", "\\x1b]0;x\\x07"]


def test_whoever_reads_may_have_had_enough(tmp_path: Path) -> None:
    """As `| head` has: neither a traceback nor a failure."""
    store = f"sqlite+aiosqlite:///{tmp_path / 'events.db'}"
    command = f"{sys.executable} -m mcp_persist_middleware tail --help | true"
    ended = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        env=os.environ | {"MCP_PERSIST_URL": store},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert ended.stderr == b""
