"""Every command's help, and what each command says under each trouble: one sentence with its code
and with what to do, no traceback, no secret."""

import base64
import contextlib
import importlib.util
import re
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import click
import pytest
import typer.main
from anyio.from_thread import BlockingPortal
from sqlalchemy import make_url

from mcp_persist_middleware.ops.commands import application
from tests.cli.scene import SESSION, Ran, Scene, played, run
from tests.faults.test_full_disk import mounted

MakeScene = Callable[..., Scene]
SECRET = "hunter2"
KEY = base64.b64encode(bytes([1]) * 32).decode()
LOOK = (
    ["stats"],
    ["workers"],
    ["orphans"],
    ["stuck"],
    ["gaps"],
    ["tail", "-n", "1"],
    ["streams", "list"],
    ["streams", "show", "AaIaOban8qeBZr39_y3nLg"],
    ["sessions", "list"],
    ["sessions", "show", SESSION],
    ["deletions"],
    ["journal"],
    ["top", "--seconds", "0"],
    ["keys", "check"],
    ["schema", "verify"],
)
CHANGE = (
    ["streams", "end", "AaIaOban8qeBZr39_y3nLg"],
    ["sessions", "end", SESSION],
    ["tasks", "cancel", "AaIaOban8qeBZr39_y3nLg"],
    ["purge"],
    ["purge", "--namespace", "x"],
    ["vacuum"],
    ["import", "export.jsonl"],
    ["bench", "--seconds", "0.05", "--only", "call"],
)
EXPORT = ["export", "new.jsonl"]
_PROGRESS = re.compile(r"^(export|import|copy|catch up|verify)\n", re.MULTILINE)


def commands() -> Iterator[tuple[list[str], click.Command]]:
    """All, with the words that name them."""
    waiting: list[tuple[list[str], Any]] = [([], typer.main.get_command(application()))]
    while waiting:
        words, command = waiting.pop()
        for name, inner in getattr(command, "commands", {}).items():
            waiting.append(([*words, name], inner))
        yield words, command


def test_every_command_explains_itself_in_80_columns() -> None:
    seen = 0
    for words, command in commands():
        if words == ["proxy"]:
            continue
        ran = run(*words, "--help")
        assert (ran.code, ran.err) == (0, ""), words
        assert "Usage: mcp-persist-middleware " + " ".join(words) in ran.out
        assert max(map(len, ran.lines)) <= 80, words
        assert command.help, words
        for parameter in command.params:
            assert getattr(parameter, "help", None) or parameter.name == "args", (words, parameter)
            assert max(parameter.opts, key=len) in ran.out or parameter.param_type_name != "option"
        seen += 1
    assert seen > 25


@pytest.fixture(autouse=True)
def exported(tmp_path: Path, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory in which there is something to import."""
    monkeypatch.chdir(tmp_path)
    assert scene.run("export", "export.jsonl").code == 0


def sentence(ran: Ran) -> str:
    """The one that it ends with."""
    said = _PROGRESS.sub("", ran.err).strip()
    assert (ran.code, ran.out, said.count("\n")) == (2, "", 0), ran
    assert SECRET not in said
    return said


URLS = [
    (f"mysql://ann:{SECRET}@db/x", "MPM-CONFIG-03", "expected sqlite+aiosqlite:///events.db or"),
    (f"postgresql://ann:{SECRET}@h:port/x", "MPM-CONFIG-03", "expected sqlite+aiosqlite:///"),
    ("sqlite:///:memory:", "MPM-CONFIG-03", "lost with the process"),
    ("sqlite:////nowhere/at/all/x.db", "MPM-", "the directory /nowhere/at/all does not exist"),
    ("nothing.db", "MPM-STORE-02", "Check its name; a server that starts with it makes it."),
    (f"postgresql://ann:{SECRET}@127.0.0.1:9/db", "MPM-STORE-02", "Check that a PostgreSQL server"),
]


@pytest.mark.parametrize(("url", "code", "fix"), URLS)
def test_a_wrong_url(url: str, code: str, fix: str) -> None:
    for command in (*LOOK[:2], *CHANGE[3:6]):
        said = sentence(run(*command, "--url", url))
        assert said.startswith(code)
        assert fix in said


def test_no_store_is_named() -> None:
    for command in (*LOOK, *CHANGE, EXPORT, ["keys", "rotate"], ["backup", "b"], ["doctor"]):
        said = sentence(run(*command))
        assert said.startswith("MPM-CONFIG-01: The configuration is wrong: no store is named; pass")


def test_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "asyncpg" else find(name)
    )
    for command in (*LOOK, *CHANGE, EXPORT):
        said = sentence(run(*command, "--url", f"postgresql://ann:{SECRET}@127.0.0.1:9/db"))
        assert said.startswith("MPM-CONFIG-04: ")
        assert said.endswith('install the extra "mcp-persist-middleware[postgres]".')


def test_a_newer_schema(fresh: MakeScene) -> None:
    scene = fresh()
    file = scene.environ["MCP_PERSIST_URL"]
    with sqlite3.connect(file) as raw:
        for name, value in {"version": "90", "schema": "90", "package": "7.0"}.items():
            raw.execute("UPDATE mcp_meta SET value = ? WHERE name = ?", (value.encode(), name))
    for command in (
        *LOOK,
        *CHANGE,
        EXPORT,
        ["schema", "upgrade"],
        ["copy", file, "copy.db"],
        ["copy", "other.db", file],
    ):
        if "other.db" in command:
            assert run("import", "export.jsonl", "--url", "other.db").code == 0
        said = sentence(scene.run(*command))
        assert said.startswith("MPM-STORE-03: "), command
        assert "install mcp-persist-middleware 7.0 or newer on this worker" in said
    assert not Path("new.jsonl").exists()


def test_a_missing_key(fresh: MakeScene) -> None:
    scene = fresh(encryption_keys=f"k:{KEY}")
    del scene.environ["MCP_PERSIST_ENCRYPTION_KEYS"]
    ran = scene.run("keys", "check", "--json")
    assert (ran.code, ran.json) == (1, [{"key": "k", "events": 11, "other": 2, "state": "missing"}])
    ran = scene.run("export", "new.jsonl")
    assert (ran.code, "payloads cannot be read here, and are left out." in ran.out) == (1, True)
    doctor = scene.run("doctor")
    assert "keys: Give k to encryption_keys; see `keys check`." in " ".join(doctor.out.split())
    said = sentence(scene.run("keys", "rotate"))
    assert said.startswith("MPM-CONFIG-01: ")
    assert "set MCP_PERSIST_ENCRYPTION_KEYS" in said


def test_redis_is_gone(fresh: MakeScene) -> None:
    """Events are in SQL by then, or will be: what looks and what changes goes on."""
    scene = fresh()
    gone = {"MCP_PERSIST_REDIS": f"redis://:{SECRET}@127.0.0.1:9/0"}
    for command in (*LOOK[:2], *CHANGE[3:5], EXPORT, ["backup", "events.backup"]):
        ran = scene.run(*command, **gone)
        assert ran.code in (0, 1) or "MPM-CLI-01" in ran.err, (command, ran)
        assert SECRET not in ran.out + ran.err
    said = sentence(scene.run("bench", "--only", "call", **gone))
    assert "Redis is away" in said
    ran = scene.run("doctor", **gone)
    assert "redis: Start it, or correct redis=; meanwhile events go to SQL" in ran.out
    assert SECRET not in ran.out


def test_the_disk_is_full(portal: BlockingPortal) -> None:
    with mounted(2) as disk:
        settings = {"url": str(disk.place / "events.db")}
        with portal.wrap_async_context_manager(played(settings)) as scene:
            disk.fill()
            for command in CHANGE:
                said = sentence(scene.run(*command))
                assert said.startswith("MPM-STORE-02: "), said
                assert said.endswith("database or disk is full. Make room on its disk."), said
            said = sentence(scene.run("export", str(disk.place / "new.jsonl")))
            assert said.startswith("MPM-COPY-03: ")
            assert said.endswith("cannot be written: No space left on device")
            said = sentence(scene.run("backup", str(disk.place / "backup")))
            assert said.startswith("MPM-COPY-01: ")
            assert f"the file {disk.place / 'backup'} cannot be written" in said
            assert said.endswith("database or disk is full; make room on its disk.")
            told = " ".join(scene.run("doctor").out.split())
            assert "disk: Make room on the disk" in told
            for command in LOOK:
                ran = scene.run(*command)
                assert ran.code in (0, 1) or "MPM-CLI-01" in ran.err
            assert sorted(path.name for path in disk.place.iterdir() if path.suffix != ".db") == [
                "ballast",
                "events.db-shm",
                "events.db-wal",
                *sorted(path.name for path in disk.place.glob("events.db-worker-*")),
            ]
            disk.clear()
            assert scene.run("purge").code == 0


@contextlib.contextmanager
def onlooker(portal: BlockingPortal, url: str, *rights: str) -> Iterator[str]:
    """The URL of a user who has few rights."""
    place = make_url(url).set(drivername="postgresql")
    name = "onlooker_" + str(place.database)

    async def run_all(*statements: str) -> None:
        connection = await asyncpg.connect(place.render_as_string(hide_password=False))
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()

    grants = (f"GRANT {each} TO {name}" for each in rights)
    portal.call(run_all, f"CREATE ROLE {name} LOGIN PASSWORD '{SECRET}'", *grants)
    try:
        yield place.set(username=name, password=SECRET).render_as_string(hide_password=False)
    finally:
        portal.call(run_all, f"DROP OWNED BY {name}", f"DROP ROLE {name}")


def test_who_may_not_is_told_what_to_grant(
    portal: BlockingPortal, new_postgres: Callable[[], str]
) -> None:
    url = new_postgres()
    grant = "grant the user SELECT, INSERT, UPDATE and DELETE on the tables."
    with contextlib.ExitStack() as stack:
        stack.enter_context(portal.wrap_async_context_manager(played({"url": url})))
        with onlooker(portal, url) as nobody:
            for command in (*LOOK[:3], *CHANGE[3:7], EXPORT):
                said = sentence(run(*command, "--url", nobody))
                assert said.startswith("MPM-STORE-0"), said
                assert said.lower().endswith(grant.lower()), said
        with onlooker(portal, url, "SELECT ON ALL TABLES IN SCHEMA public") as reader:
            assert run("stats", "--url", reader).code == 0
            said = sentence(run("purge", "--url", reader))
            assert said.endswith("Grant the user SELECT, INSERT, UPDATE and DELETE on the tables.")
            ran = run("doctor", "--url", reader)
            assert (ran.code, "permissions: Run a server as a user who may" in ran.out) == (1, True)


def test_no_database(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("no database, but a text that is longer than a header\n" * 9)
    ran = run("stats", "--url", str(tmp_path / "text.db"))
    assert "file is not a database" in sentence(ran)


def test_a_wrong_setting_in_the_environment(scene: Scene) -> None:
    ran = scene.run("stats", MCP_PERSIST_TTL="soon")
    assert ran.code == 2
    assert "MCP_PERSIST_TTL" in ran.err


def test_a_missing_key_costs_the_events_alone(fresh: Callable[..., Scene]) -> None:
    scene = fresh(encryption_keys=f"k:{KEY}")
    del scene.environ["MCP_PERSIST_ENCRYPTION_KEYS"]
    shown = scene.run("streams", "show", scene.finished, "--payloads", "--json").json
    assert shown["list"][0]["data"] == (
        "(cannot be read: it is encrypted, and there are no encryption_keys)"
    )
