"""`bench` measures what there is, says it in three ways, and leaves nothing behind."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from mcp_persist_middleware.ops.bench import Measure, measures, picture
from mcp_persist_middleware.ops.bench.application import BenchClient
from tests.cli.scene import Scene, run

NAMES = [
    "append, one by one",
    "append, 64 streams",
    "replay, 2,000 events",
    "lag on the same worker",
    "lag on another worker",
    "call, bare",
    "call, kept",
    "16 clients call, bare",
    "16 clients call, kept",
]


KEPT = [f"mcp_{name}" for name in ("stream", "event", "session", "inbox", "job", "journal")]


def rows(path: str) -> dict[str, int]:
    with sqlite3.connect(path) as raw:
        tables = [name for (name,) in raw.execute("SELECT name FROM sqlite_schema")]
        kept = [name for name in tables if name in KEPT]
        return {name: raw.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in kept}


@pytest.fixture
def sound(fresh: Callable[..., Scene]) -> Scene:
    """A scene without what the dead worker has left: any worker ends that."""
    scene = fresh(compression="gzip")
    scene.environ["MCP_PERSIST_JOURNAL"] = "true"
    scene.run("streams", "end", scene.orphan)
    return scene


def test_everything_is_measured_and_erased(sound: Scene, tmp_path: Path) -> None:
    scene, path = sound, sound.environ["MCP_PERSIST_URL"]
    before = rows(path)
    ran = scene.run("bench", "--seconds", "0.1", "--json", "--plot", str(tmp_path / "plot.svg"))
    assert (ran.code, ran.err) == (0, "")
    found = {row["measure"]: row for row in ran.json["measures"]}
    assert list(found) == NAMES
    assert all(row["rate"] > 0 for row in found.values())
    timed = [name for name, row in found.items() if row["p50_ms"] is not None]
    assert timed == [name for name in NAMES if name != "append, 64 streams"]
    assert "gzip" in ran.json["events"]
    assert rows(path) == before
    assert {row["namespace"] for row in scene.run("streams", "list", "--json").json} == {"default"}
    labels = [each.text for each in ET.parse(tmp_path / "plot.svg").iter() if each.text]
    assert set(timed) <= set(labels)


def test_a_file_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    ran = run("bench", "--url", str(tmp_path / "new.db"), "--seconds", "0.1", "--only", "call")
    assert ran.code == 0
    assert all(len(line) <= 80 for line in ran.lines)
    assert "call, kept" in ran.out
    assert "replay" not in ran.out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--only", "all"], "expected one of append, replay, lag, call"),
        (["--seconds", "2h"], "expected 0.1 to 60"),
        (["--url", "/nowhere/at/all/x.db"], "the directory /nowhere/at/all does not exist"),
        (["--plot", "/nowhere/x.svg", "--only", "replay"], "/nowhere/x.svg cannot be written"),
    ],
)
def test_what_cannot_be_measured_is_told(options: list[str], said: str, tmp_path: Path) -> None:
    ran = run("bench", "--url", str(tmp_path / "x.db"), "--seconds", "0.1", *options)
    assert (ran.code, said in ran.err) == (2, True)


def test_a_measure_that_fails_is_told_and_what_it_left_is_erased(
    sound: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def failing(opened: Any, seconds: float, size: int) -> AsyncIterator[Measure]:
        client = BenchClient(opened.here)
        await client.open()
        await client.call()
        async with asyncio.TaskGroup() as group:
            group.create_task(BenchClient(opened.here).resume(b"nothing-of-ours", print))
        yield Measure("never", 1, "calls")

    monkeypatch.setattr(measures, "ALL", {"call": failing})
    before = rows(sound.environ["MCP_PERSIST_URL"])
    ran = sound.run("bench", "--only", "call")
    assert ran.code == 2
    assert "the measure 'call' has not come to its end: GET was answered with 4" in ran.err
    assert rows(sound.environ["MCP_PERSIST_URL"]) == before


def test_the_picture_is_a_scale_of_powers_of_ten() -> None:
    fast = Measure("fast", 1.0, "x", [0.001] * 100)
    slow = Measure("slow", 1.0, "x", [0.01] * 60 + [1.0] * 40)
    axis, one, two = picture.text([fast, Measure("none", 1.0, "x"), slow], width=79)
    assert axis.split() == ["1", "ms", "10", "ms", "100", "ms", "1", "s"]
    assert axis.index("1 ms") == one.index("●")
    assert axis.index("10 ms") == two.index("●")
    assert two.rindex("━") <= axis.index("1 s")
    assert picture.text([]) == []
