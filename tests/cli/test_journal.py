"""`journal` lists exchanges that have ended, and `tail --tool` the events of those of one tool."""

import base64
import json
from collections.abc import Callable

import pytest
from anyio.from_thread import BlockingPortal

from mcp_persist_middleware.ops import stores, tool_following
from mcp_persist_middleware.ops.following import NewEvent
from mcp_persist_middleware.ops.tool_following import ToolFollower
from mcp_persist_middleware.settings import Settings
from mcp_persist_middleware.stores.sql.inspected import Wanted
from tests.cli.scene import Scene, answer, progress


@pytest.mark.parametrize(
    ("options", "tools"),
    [
        ([], ["sub", "add"]),
        (["--tool", "add"], ["add"]),
        (["--outcome", "tool_error"], ["sub"]),
        (["--since", "1m"], ["sub"]),
        (["--slow", "1s"], ["add"]),
        (["--method", "initialize"], []),
        (["--session", "other"], []),
        (["--limit", "1"], ["sub"]),
    ],
)
def test_exchanges_are_listed_the_newest_first(
    scene: Scene, options: list[str], tools: list[str]
) -> None:
    assert [row["tool"] for row in scene.run("journal", "--json", *options).json] == tools


def test_what_is_told_of_one_has_its_stream_and_no_parameters(scene: Scene) -> None:
    ran = scene.run("journal", "--json", "--tool", "sub")
    (row,) = ran.json
    assert (row["stream"], row["outcome"], row["bytes"]) == (scene.running, "tool_error", 1234)
    assert row["principal"] == "ann"
    assert "etc" not in ran.out
    (row,) = scene.run("journal", "--json", "--tool", "sub", "--params").json
    assert json.loads(row["params"]) == {"path": "/etc"}


def test_parameters_that_cannot_be_read_are_not_told_as_none(fresh: Callable[..., Scene]) -> None:
    old, new = (f"{n}:" + base64.b64encode(bytes(32)).decode() for n in ("old", "new"))
    scene = fresh(encryption_keys=old)
    told = scene.run(
        "journal", "--json", "--tool", "sub", "--params", MCP_PERSIST_ENCRYPTION_KEYS=new
    )
    (row,) = told.json
    assert row["params"].startswith("(cannot be read: ")


def test_an_empty_journal_says_how_to_keep_one(fresh: Callable[..., Scene]) -> None:
    scene = fresh()
    assert scene.run("journal", "--method", "no").out == "There is no such exchange.\n"
    scene.run("purge", "--principal", "ann")
    assert "journal=True" in scene.run("journal").out


def test_the_events_of_a_tool_are_those_that_the_journal_names(scene: Scene) -> None:
    ran = scene.run("tail", "--tool", "add", "--json")
    events = [json.loads(line) for line in ran.lines]
    assert [(e["stream"], e["sequence"]) for e in events] == [
        (scene.finished, number) for number in (1, 2, 3, 4)
    ]
    assert scene.run("tail", "--tool", "none", "--json").out == ""
    assert len(scene.run("tail", "--tool", "add", "--json", "-n", "2").lines) == 2
    assert scene.run("tail", "--tool", "add", "--since", "1m", "--json").lines == []


def test_without_a_journal_nobody_knows_which_those_are(fresh: Callable[..., Scene]) -> None:
    scene = fresh()
    scene.run("purge", "--principal", "ann")
    ran = scene.run("tail", "--tool", "add")
    assert ran.code == 2
    assert "MPM-CLI-04" in ran.err
    assert "journal=True" in ran.err
    assert scene.run("tail", "--tool", "add", "--stream", scene.finished).code == 2


def test_a_call_is_told_once_when_it_has_ended_also_by_a_row_that_comes_late(
    fresh: Callable[..., Scene], portal: BlockingPortal
) -> None:
    scene = fresh()

    async def follow() -> list[list[int]]:
        settings = Settings.load({"url": scene.environ["MCP_PERSIST_URL"]})
        told = []
        async with stores.inspected(settings) as inspection:
            follower = ToolFollower(inspection, "mul", Wanted())
            await follower.latest(5)
            told.append(await follower.look())
            done = await scene.begin(progress(1), answer(2), age=3)
            await scene.finish(done, 2, ago=0, ttl=60)
            told.append(await follower.look())
            await scene.note(done, 1, "mul")
            told.append(await follower.look())
            older = await scene.begin(progress(1), progress(2), answer(3), age=9)
            await scene.note(older, 5, "mul")
            await scene.note(older, 0, "div")
            told.append(await follower.look())
            told.append(await follower.look())
        return [[event.head.sequence for event in events] for events in told]

    assert portal.call(follow) == [[], [], [1, 2], [1, 2, 3], []]


def test_more_calls_and_events_than_one_page_between_two_looks_are_all_told(
    fresh: Callable[..., Scene], portal: BlockingPortal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tool_following, "_PAGE", 3)
    monkeypatch.setattr(tool_following, "_EVENTS", 2)
    scene = fresh()
    settings = Settings.load({"url": scene.environ["MCP_PERSIST_URL"]})

    async def told() -> tuple[list[NewEvent], ...]:
        async with stores.inspected(settings) as inspection:
            follower = ToolFollower(inspection, "add", Wanted())
            await follower.latest(0)
            for n in range(10):
                record = await scene.begin(progress(1), progress(2), answer(3), age=0)
                await scene.finish(record, 3, ago=0, ttl=60)
                await scene.note(record, n / 1000, "add")
            newest = await ToolFollower(inspection, "add", Wanted()).latest(25)
            return await follower.look(), await follower.look(), newest

    looked, again, newest = portal.call(told)
    assert len({(event.record.id, event.head.sequence) for event in looked}) == len(looked) == 30
    assert (again, len(newest)) == ([], 25)
