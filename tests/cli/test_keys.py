"""`keys`: everything is under the new key after a rotation, and nothing is lost on the way."""

import base64
import sqlite3
from collections.abc import Callable

import pytest
from anyio.from_thread import BlockingPortal

from mcp_persist_middleware.errors import StoreError
from mcp_persist_middleware.model import SessionKey
from mcp_persist_middleware.ops import rotation
from mcp_persist_middleware.stores.sql.log import SqlLog
from tests.cli.scene import SESSION, Scene

MakeScene = Callable[..., Scene]
OLD, NEW = (base64.b64encode(bytes([n]) * 32).decode() for n in (1, 2))
BOTH = {"MCP_PERSIST_ENCRYPTION_KEYS": f"new:{NEW},old:{OLD}"}
NEW_ALONE = {"MCP_PERSIST_ENCRYPTION_KEYS": f"new:{NEW}"}
EVENTS = 11


def by_key(scene: Scene, environ: dict[str, str]) -> dict[str, tuple[int, str]]:
    rows = scene.run("keys", "check", "--json", **environ).json
    return {row["key"]: (row["events"], row["state"]) for row in rows}


@pytest.mark.parametrize("before", [f"old:{OLD}", ""])
def test_after_a_rotation_the_new_key_alone_reads_everything(fresh: MakeScene, before: str) -> None:
    scene = fresh(**({"encryption_keys": before} if before else {}))
    name = before.partition(":")[0]
    assert by_key(scene, BOTH) == {name: (EVENTS, "old")}
    ran = scene.run("keys", "rotate", "--json", **BOTH)
    assert (ran.code, ran.json["events"], ran.json["sessions"]) == (0, EVENTS, 1)
    assert by_key(scene, NEW_ALONE) == {"new": (EVENTS, "current")}
    shown = scene.run("streams", "show", scene.finished, "--payloads", "--json", **NEW_ALONE).json
    assert '"text": "42"' in shown["list"][-1]["data"]
    (noted,) = scene.run("journal", "--tool", "sub", "--params", "--json", **NEW_ALONE).json
    assert (ran.json["journal"], noted["params"]) == (1, '{"path":"/etc"}')
    with sqlite3.connect(scene.environ["MCP_PERSIST_URL"]) as raw:
        kept = [*raw.execute("SELECT payload FROM mcp_event")]
        kept += raw.execute("SELECT initialize FROM mcp_session")
        kept += raw.execute("SELECT params FROM mcp_journal")
    assert not [
        each for (each,) in kept if b"\x03old" in each or b"method" in each or b"path" in each
    ]


def test_a_rotation_that_is_interrupted_goes_on(
    fresh: MakeScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = fresh(encryption_keys=f"old:{OLD}")
    write, writes = SqlLog.execute_together, []
    monkeypatch.setattr(rotation, "_TOGETHER", 2)

    async def fail(log: SqlLog, *statements: object) -> list[int]:
        writes.append(len(statements))
        if len(writes) == 3:
            raise StoreError(url="x", reason="it was killed")
        return await write(log, *statements)

    monkeypatch.setattr(SqlLog, "execute_together", fail)
    assert scene.run("keys", "rotate", **BOTH).code == 2
    assert by_key(scene, BOTH) == {"new": (4, "current"), "old": (EVENTS - 4, "old")}
    ran = scene.run("keys", "rotate", "--json", **BOTH)
    assert (ran.code, ran.json["events"]) == (0, EVENTS - 4)
    assert by_key(scene, BOTH) == {"new": (EVENTS, "current")}
    assert scene.run("keys", "rotate", "--json", **BOTH).json["events"] == 0


@pytest.mark.parametrize("part", ["_sessions", "_requests", "_journal", "_jobs"])
def test_what_is_not_under_the_new_key_beside_the_events_is_found(
    fresh: MakeScene, portal: BlockingPortal, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    scene = fresh(encryption_keys=f"old:{OLD}")
    portal.call(scene.keep_requests)

    async def stop(_: rotation.Rotation) -> None:
        raise StoreError(url="x", reason="it was killed")

    with monkeypatch.context() as patch:
        patch.setattr(rotation.Rotation, part, stop)
        assert scene.run("keys", "rotate", **BOTH).code == 2
    ran = scene.run("keys", "check", "--json", **BOTH)
    rows = {row["key"]: row for row in ran.json}
    assert (ran.code, rows["new"]["events"], rows["old"]["events"]) == (1, EVENTS + 1, 0)
    assert (rows["old"]["other"] > 0, rows["old"]["state"]) == (True, "old")
    assert scene.run("keys", "rotate", **BOTH).code == 0
    assert scene.run("keys", "check", "--json", **BOTH).code == 0


def test_what_cannot_be_read_is_left_as_it_is(fresh: MakeScene) -> None:
    scene = fresh(encryption_keys=f"old:{OLD}")
    assert by_key(scene, NEW_ALONE) == {"old": (EVENTS, "missing")}
    ran = scene.run("keys", "rotate", "--json", **NEW_ALONE)
    assert (ran.code, ran.json["events"], ran.json["unreadable"]) == (1, 0, EVENTS + 2)
    assert by_key(scene, BOTH) == {"old": (EVENTS, "old")}


def test_a_session_that_is_damaged_keeps_nothing_else_from_being_rotated(
    fresh: MakeScene, portal: BlockingPortal
) -> None:
    scene = fresh(encryption_keys=f"old:{OLD}")
    portal.call(scene.session, "damaged")
    with sqlite3.connect(scene.environ["MCP_PERSIST_URL"]) as raw:
        raw.execute("UPDATE mcp_session SET initialize = x'78ffff' WHERE id = 'damaged'")
    ran = scene.run("keys", "rotate", "--json", **BOTH)
    assert (ran.code, ran.json["sessions"], ran.json["unreadable"]) == (1, 1, 1)
    assert ran.json["journal"] == 1, "what comes after the sessions"


def test_without_keys_there_is_nothing_to_rotate_to(scene: Scene) -> None:
    ran = scene.run("keys", "rotate")
    assert ran.code == 2
    assert "there are no encryption_keys" in ran.err
    assert scene.run("keys", "check").code == 0


def test_the_session_is_revived_with_the_new_key(fresh: MakeScene, portal: BlockingPortal) -> None:
    scene = fresh(encryption_keys=f"old:{OLD}")
    scene.run("keys", "rotate", **BOTH)
    assert scene.run("keys", "check", **NEW_ALONE).code == 0
    # The worker that has the old key alone cannot read it any more, and says so.
    with pytest.raises(StoreError, match="its key 'new' is not among encryption_keys"):
        portal.call(scene.log.sessions.find, SessionKey("default", "/mcp", SESSION))
