"""`schema` and `vacuum`: the tables of a store."""

import sqlite3
from collections.abc import Callable
from pathlib import Path

from anyio.from_thread import BlockingPortal

from mcp_persist_middleware.stores.sql.migrations import NEWEST
from tests.cli.scene import Scene, answer, run

MakeScene = Callable[..., Scene]


def test_a_store_of_this_version_lacks_nothing(scene: Scene) -> None:
    shown = scene.run("schema", "show", "--json")
    assert (shown.code, shown.json["schema"], shown.json["pending"]) == (0, NEWEST, [])
    verified = scene.run("schema", "verify", "--json")
    assert (verified.code, verified.json) == (0, [])


def test_the_plan_makes_what_an_upgrade_makes(tmp_path: Path) -> None:
    (tmp_path / "planned.db").touch()
    planned = run("schema", "upgrade", "--plan", "--url", str(tmp_path / "planned.db"))
    with sqlite3.connect(tmp_path / "planned.db", isolation_level=None) as raw:
        raw.executescript(planned.out)
    assert run("schema", "verify", "--url", str(tmp_path / "planned.db")).code == 0
    (tmp_path / "upgraded.db").touch()
    upgraded = run("schema", "upgrade", "--url", str(tmp_path / "upgraded.db"), "--json").json
    assert (upgraded["before"], upgraded["schema"]) == (0, NEWEST)
    assert run("schema", "verify", "--url", str(tmp_path / "upgraded.db")).code == 0


def test_an_upgrade_of_what_is_new_does_nothing(scene: Scene) -> None:
    ran = scene.run("schema", "upgrade", "--json")
    assert (ran.code, ran.json["before"], ran.json["schema"]) == (0, NEWEST, NEWEST)
    assert scene.run("schema", "upgrade", "--plan").out.strip() == ""


def test_what_is_lacking_is_named(fresh: MakeScene) -> None:
    scene = fresh()
    with sqlite3.connect(scene.environ["MCP_PERSIST_URL"]) as raw:
        raw.execute("DROP INDEX mcp_stream_open")
        raw.execute("ALTER TABLE mcp_stream DROP COLUMN trace")
        raw.execute("DROP TABLE mcp_inbox")
    ran = scene.run("schema", "verify", "--json")
    assert ran.code == 1
    assert [row["wrong"] for row in ran.json] == [
        "column trace of mcp_stream is not there",
        "index mcp_stream_open of mcp_stream is not there",
        "table mcp_inbox is not there",
    ]


def test_a_vacuum_gives_back_what_removed_events_have_left(
    fresh: MakeScene, portal: BlockingPortal
) -> None:
    scene = fresh()

    async def fill_and_purge() -> None:
        large = answer(1)._replace(frame=b"data: " + b"x" * 2_000_000 + b"\r\n")
        stream = await scene.begin(large)
        await scene.finish(stream, 1, ago=10, ttl=0)
        # Not what retention does: it gives pages back itself, in many steps.
        with sqlite3.connect(scene.environ["MCP_PERSIST_URL"]) as raw:
            raw.execute("DELETE FROM mcp_event WHERE stream = ?", (stream.id,))

    portal.call(fill_and_purge)
    free = scene.run("stats", "--json").json["bytes"]["free"]
    assert free > 1_000_000
    ran = scene.run("vacuum", "--json")
    assert (ran.code, ran.json["free"]) == (0, 0)
