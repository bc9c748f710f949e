"""`doctor` finds each trouble, names it and says what to do; and leaves everything as it is."""

import base64
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from anyio.from_thread import BlockingPortal
from sqlalchemy import Select
from sqlalchemy.dialects.sqlite import dialect

from mcp_persist_middleware.model import StreamWrite
from mcp_persist_middleware.ops import stores
from mcp_persist_middleware.ops.records import stream_id
from mcp_persist_middleware.settings import Settings
from mcp_persist_middleware.stores.sqlite.inspection import SqliteInspection
from tests.cli.scene import GONE, Ran, Scene, answer, run

MakeScene = Callable[..., Scene]
OLD, NEW = (base64.b64encode(bytes([n]) * 32).decode() for n in (1, 2))


def finding(ran: Ran, name: str) -> dict[str, str]:
    (found,) = [each for each in ran.json if each["check"] == name]
    return found


def levels(ran: Ran) -> dict[str, str]:
    return {each["check"]: each["level"] for each in ran.json}


@pytest.fixture
def sound(fresh: MakeScene, portal: BlockingPortal) -> Scene:
    """A scene without what the dead worker has left."""
    scene = fresh()
    left = stream_id(scene.orphan)
    scene.run("streams", "end", scene.orphan)
    assert portal.call(scene.log.find, left).ended_at is not None
    return scene


def test_there_is_nothing_to_do_where_all_is_well(sound: Scene) -> None:
    ran = sound.run("doctor")
    assert ran.code == 0
    assert ran.lines[-1].strip() == "Nothing to do."
    found = levels(sound.run("doctor", "--json"))
    assert found.pop("redis") == "skipped"
    assert set(found.values()) == {"ok"}


def test_streams_without_their_worker_are_a_thing_to_do(scene: Scene) -> None:
    ran = scene.run("doctor")
    assert ran.code == 1
    told = " ".join(ran.out.split())
    assert f"{GONE} is gone; streams without their worker: 1" in told
    assert "To do: - workers: Start a server on the store" in told


def test_a_file_that_others_may_read_is_told(sound: Scene) -> None:
    Path(sound.environ["MCP_PERSIST_URL"]).chmod(0o644)
    found = finding(sound.run("doctor", "--json"), "permissions")
    assert (found["level"], found["said"]) == ("warning", "others may use the file (0644)")
    assert found["fix"].startswith("chmod 600 ")


def test_retention_that_is_behind_is_told(sound: Scene, portal: BlockingPortal) -> None:
    async def expire() -> None:
        late = await sound.begin(answer(1), age=9000)
        await sound.finish(late, 1, ago=8000, ttl=60)

    portal.call(expire)
    found = finding(sound.run("doctor", "--json"), "retention")
    assert found["level"] == "warning"
    assert found["said"].startswith("1 streams have expired, the first 2 h 12 min ago")


def test_a_newer_schema_is_told_and_left_alone(sound: Scene) -> None:
    rows = {"version": "9", "schema": "9", "package": "7.0"}
    with sqlite3.connect(sound.environ["MCP_PERSIST_URL"]) as raw:
        for name, value in rows.items():
            raw.execute("UPDATE mcp_meta SET value = ? WHERE name = ?", (value.encode(), name))
    ran = sound.run("doctor", "--json")
    assert ran.code == 1
    assert levels(ran) == {"store": "ok", "schema": "failure"}
    assert "install mcp-persist-middleware 7.0 or newer" in finding(ran, "schema")["said"]


def test_an_older_schema_is_told_and_not_upgraded(sound: Scene) -> None:
    with sqlite3.connect(sound.environ["MCP_PERSIST_URL"]) as raw:
        raw.execute("ALTER TABLE mcp_worker DROP COLUMN schema")
        raw.execute("UPDATE mcp_meta SET value = '1' WHERE name = 'schema'")
    assert finding(sound.run("doctor", "--json"), "schema")["level"] == "failure"
    with sqlite3.connect(sound.environ["MCP_PERSIST_URL"]) as raw:
        (schema,) = raw.execute("SELECT value FROM mcp_meta WHERE name = 'schema'").fetchone()
    assert schema == "1"


def test_a_key_that_is_missing_is_named(fresh: MakeScene, portal: BlockingPortal) -> None:
    scene = fresh(encryption_keys=f"old:{OLD}")
    ran = scene.run("doctor", "--json", MCP_PERSIST_ENCRYPTION_KEYS=f"new:{NEW}")
    found = finding(ran, "keys")
    assert found["level"] == "failure"
    assert found["said"] == "events are encrypted with old, which is not among encryption_keys"
    told = finding(
        scene.run("doctor", "--json", MCP_PERSIST_ENCRYPTION_KEYS=f"new:{NEW},old:{OLD}"), "keys"
    )
    assert (told["level"], told["said"]) == ("warning", "some events are written with old")
    assert NEW not in ran.out
    assert OLD not in ran.out


def test_a_file_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    ran = run("doctor", "--url", str(tmp_path / "none.db"), "--json")
    assert ran.code == 1
    assert "cannot be opened: the file is not there" in finding(ran, "store")["said"]
    assert list(tmp_path.iterdir()) == []


def test_a_directory_is_called_one(tmp_path: Path) -> None:
    said = finding(run("doctor", "--url", str(tmp_path), "--json"), "store")["said"]
    assert "cannot be opened: it is a directory" in said


def test_a_file_without_tables_gets_none(tmp_path: Path) -> None:
    sqlite3.connect(tmp_path / "empty.db").close()
    ran = run("doctor", "--url", str(tmp_path / "empty.db"), "--json")
    assert "no server has opened it yet" in finding(ran, "schema")["said"]
    assert (tmp_path / "empty.db").stat().st_size == 0


def test_what_a_server_writes_meanwhile_is_not_disturbed(
    sound: Scene, portal: BlockingPortal
) -> None:
    with sqlite3.connect(sound.environ["MCP_PERSIST_URL"], isolation_level=None) as raw:
        raw.execute("BEGIN IMMEDIATE")
        # A writer that holds the lock keeps nobody from looking.
        assert sound.run("doctor").code == 0
        raw.execute("ROLLBACK")
    late = StreamWrite(stream_id(sound.running), 1, events=(answer(4),))
    portal.call(sound.log.append, [late])


@pytest.mark.parametrize(
    "row",
    [
        "mcp_session.initialize",
        "mcp_stream.request",
        "mcp_job.request",
        "mcp_job.inputs",
        "mcp_journal.params",
    ],
)
def test_a_key_that_is_missing_for_one_row_beside_the_events_is_named(
    fresh: MakeScene, portal: BlockingPortal, row: str
) -> None:
    scene = fresh(encryption_keys=f"old:{OLD}")
    portal.call(scene.keep_requests)
    table, column = row.split(".")
    both = f"new:{NEW},old:{OLD}"
    with sqlite3.connect(scene.environ["MCP_PERSIST_URL"]) as raw:
        (kept,) = raw.execute(f"SELECT {column} FROM {table} WHERE length({column}) > 0").fetchone()
        scene.run("keys", "rotate", MCP_PERSIST_ENCRYPTION_KEYS=both)
        raw.execute(f"UPDATE {table} SET {column} = ? WHERE length({column}) > 0", (kept,))
    ran = scene.run("doctor", "--json", MCP_PERSIST_ENCRYPTION_KEYS=f"new:{NEW}")
    found = finding(ran, "keys")
    assert found["level"] == "failure"
    assert found["said"].endswith("are encrypted with old, which is not among encryption_keys")
    found = finding(scene.run("doctor", "--json", MCP_PERSIST_ENCRYPTION_KEYS=both), "keys")
    assert found["level"] == "warning"


def test_of_each_kind_of_row_a_bounded_number_is_looked_at(
    fresh: MakeScene, portal: BlockingPortal
) -> None:
    scene = fresh(encryption_keys=f"old:{OLD}")

    async def looked() -> list[int]:
        for n in range(7):
            await scene.session(f"more{n}")
            await scene.keep_requests()
        settings = Settings.load({"url": scene.environ["MCP_PERSIST_URL"]})
        async with stores.inspected(settings) as inspection:
            return [
                sum([len(page) async for page in inspection.blob_heads(most)]) for most in (3, None)
            ]

    # Sessions, requests of streams and of jobs, inputs of jobs, parameters in the journal.
    few, every = portal.call(looked)
    assert few <= 3 * 5 < every


def test_the_few_streams_that_are_open_are_found_without_reading_all_of_them(
    fresh: MakeScene, portal: BlockingPortal, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene, asked = fresh(), []
    look = SqliteInspection.all

    async def listened(self: SqliteInspection, statement: Select[Any]) -> Any:
        given = statement.compile(dialect=dialect())
        asked.append((str(given), [given.params[name] for name in given.positiontup or ()]))
        return await look(self, statement)

    monkeypatch.setattr(SqliteInspection, "all", listened)

    async def looked() -> None:
        async with stores.inspected(Settings.load({"url": url})) as inspection:
            async for _ in inspection.blob_heads(1000):
                pass

    url = scene.environ["MCP_PERSIST_URL"]
    portal.call(looked)
    of_streams = [each for each in asked if "FROM mcp_stream" in each[0]]
    assert of_streams
    with sqlite3.connect(url) as raw:
        for sql, values in of_streams:
            ((*_, plan),) = raw.execute(f"EXPLAIN QUERY PLAN {sql}", values).fetchall()
            assert "USING INDEX mcp_stream_open" in plan
