"""Commands that only look write nothing, make no file and upgrade no tables."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from anyio.from_thread import BlockingPortal
from sqlalchemy import make_url

from tests.cli.scene import ANN, SESSION, Scene, run
from tests.cli.test_tasks import begun

MakeScene = Callable[..., Scene]

LOOKS = [
    ["stats"],
    ["workers"],
    ["orphans"],
    ["stuck"],
    ["gaps"],
    ["deletions"],
    ["journal", "--params"],
    ["streams", "list"],
    ["streams", "show", "finished", "--payloads"],
    ["sessions", "list"],
    ["sessions", "show", SESSION],
    ["tasks", "list"],
    ["tasks", "show", "task"],
    ["tasks", "result", "task"],
    ["tail", "-n", "5"],
    ["top", "--json", "--seconds", "0s"],
    ["keys", "check"],
    ["schema", "show"],
    ["schema", "verify"],
    ["purge", "--dry-run"],
    ["purge", "--dry-run", "--older-than", "1s"],
    ["purge", "--dry-run", "--principal", ANN],
]


def version_of(connection: sqlite3.Connection) -> int:
    """Another one after each commit of somebody else."""
    return int(connection.execute("PRAGMA data_version").fetchone()[0])


def test_who_looks_commits_nothing(fresh: MakeScene, portal: BlockingPortal) -> None:
    scene = fresh()
    task, _ = begun(scene, portal)
    with closing(sqlite3.connect(scene.environ["MCP_PERSIST_URL"])) as beside:
        before, changed = version_of(beside), []
        for command in LOOKS:
            given = [{"finished": scene.finished, "task": task}.get(part, part) for part in command]
            ran = scene.run(*given)
            assert ran.err == "", command
            if (now := version_of(beside)) != before:
                changed.append(" ".join(command))
                before = now
        assert changed == []
        beside_it = scene.run("sessions", "end", SESSION)
        assert (beside_it.code, version_of(beside) != before) == (0, True), "it would be seen"


@pytest.mark.parametrize("command", LOOKS, ids=" ".join)
def test_who_looks_makes_no_store(command: list[str], tmp_path: Path) -> None:
    given = ["A" * 32 if part == "task" else part for part in command]
    given = ["A" * 22 if part == "finished" else part for part in given]
    ran = run(*given, "--url", str(tmp_path / "none.db"))
    assert ran.code == 2
    assert "Traceback" not in ran.err
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("command", LOOKS, ids=" ".join)
def test_who_looks_upgrades_no_store(command: list[str], fresh: MakeScene) -> None:
    scene = fresh()
    file = scene.environ["MCP_PERSIST_URL"]
    with closing(sqlite3.connect(file)) as older, older:
        older.execute("UPDATE mcp_meta SET value = '3' WHERE name = 'schema'")
    given = ["A" * 32 if part == "task" else part for part in command]
    scene.run(*(getattr(scene, part, part) for part in given))
    with closing(sqlite3.connect(file)) as older:
        (schema,) = older.execute("SELECT value FROM mcp_meta WHERE name = 'schema'").fetchone()
    assert schema in ("3", b"3")


def test_a_database_of_which_one_may_only_read_is_enough(
    new_postgres: Callable[[], str], portal: BlockingPortal, fresh: MakeScene
) -> None:
    url = new_postgres()
    scene = fresh(url=url)
    task, _ = begun(scene, portal)
    name = "reader_" + (make_url(url).database or "")

    async def make_user() -> None:
        import asyncpg

        plain = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
        connection = await asyncpg.connect(plain)
        try:
            await connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'p'")
            await connection.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {name}")
        finally:
            await connection.close()

    portal.call(make_user)
    theirs = make_url(url).set(username=name, password="p").render_as_string(hide_password=False)
    for command in LOOKS:
        given = [{"finished": scene.finished, "task": task}.get(part, part) for part in command]
        ran = scene.run(*given, MCP_PERSIST_URL=theirs)
        assert (ran.err, ran.code < 2) == ("", True), command
