"""Commands that look at a store, beside a worker that serves."""

from collections.abc import Callable

import pytest
from anyio.from_thread import BlockingPortal

from mcp_persist_middleware.stores.sql import migrations
from tests.cli.scene import GONE, SESSION, WORKER, Scene

MakeScene = Callable[..., Scene]


def test_stats_counts_by_namespace(scene: Scene) -> None:
    told = scene.run("stats", "--json").json
    assert told["schema"] == migrations.NEWEST
    assert told["workers"] == 1
    assert told["bytes"]["file"] > 0
    assert told["namespaces"] == [
        {"namespace": "default", "streams": 5, "open": 4, "failed": 0, "events": 4, "sessions": 1}
    ]


def test_workers_tells_the_living_from_the_gone(scene: Scene) -> None:
    ran = scene.run("workers", "--json")
    assert ran.code == 1
    states = {row["worker"]: (row["state"], row["running"]) for row in ran.json}
    assert states == {WORKER: ("live", 3), GONE: ("gone", 1)}


@pytest.mark.parametrize(
    ("command", "names"),
    [
        (["orphans"], ["orphan"]),
        (["stuck", "--over", "5m"], ["running"]),
        (["gaps"], ["lacking"]),
        (["stuck", "--over", "1h"], []),
        (["gaps", "--namespace", "other"], []),
    ],
)
def test_what_is_in_trouble_is_listed_and_found(
    scene: Scene, command: list[str], names: list[str]
) -> None:
    ran = scene.run(*command, "--json")
    assert [row["stream"] for row in ran.json] == [getattr(scene, name) for name in names]
    assert ran.code == (1 if names else 0)


def test_a_gap_says_how_many_are_missing(scene: Scene) -> None:
    (row,) = scene.run("gaps", "--json").json
    assert (row["first"], row["last"], row["missing"]) == (6, 8, 5)


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ([], 5),
        (["--open"], 4),
        (["--session", "none"], 0),
        (["--since", "1m"], 2),
        (["--worker", GONE], 1),
        (["--limit", "2"], 2),
    ],
)
def test_streams_are_listed_the_newest_first(scene: Scene, options: list[str], count: int) -> None:
    rows = scene.run("streams", "list", "--json", *options).json
    assert len(rows) == count
    assert [row["age"] for row in rows] == sorted(row["age"] for row in rows)


def test_a_stream_is_shown_without_what_it_says(scene: Scene) -> None:
    ran = scene.run("streams", "show", scene.finished, "--json")
    assert ran.json["events"] == 4
    assert [event["kind"] for event in ran.json["list"]] == ["noise"] * 3 + ["response"]
    assert "jsonrpc" not in ran.out


def test_payloads_are_shown_to_whoever_asks_for_them(scene: Scene) -> None:
    shown = scene.run("streams", "show", scene.finished, "--json", "--payloads", "--after", "3")
    (event,) = shown.json["list"]
    assert '"text": "42"' in event["data"]


def test_a_session_is_shown_with_its_streams(scene: Scene) -> None:
    (listed,) = scene.run("sessions", "list", "--json").json
    (shown,) = scene.run("sessions", "show", SESSION, "--json").json
    assert listed == {key: shown[key] for key in listed} | {"left": listed["left"]}
    assert len(shown["streams"]) == 5


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["streams", "show", "short"], "'short' is neither the id of a stream"),
        (["streams", "show", "A" * 22], f"There is no stream {'A' * 22} in the store"),
        (["sessions", "show", "none"], "There is no session none in the store"),
        (["stuck", "--over", "soon"], "expected a time such as 90"),
    ],
)
def test_what_is_not_there_cannot_be_shown(scene: Scene, command: list[str], said: str) -> None:
    ran = scene.run(*command)
    assert ran.code == 2
    assert said in " ".join(ran.err.replace("│", " ").split())


@pytest.mark.parametrize(
    "command",
    [
        ["stats"],
        ["workers"],
        ["orphans"],
        ["stuck"],
        ["gaps"],
        ["streams", "list"],
        ["streams", "show", "finished"],
        ["sessions", "list"],
        ["sessions", "show", SESSION],
    ],
)
def test_tables_fit_into_80_columns(scene: Scene, command: list[str]) -> None:
    ran = scene.run(*(getattr(scene, part, part) for part in command))
    assert ran.err == ""
    assert max(map(len, ran.lines)) <= 80


def test_a_worker_whose_process_has_ended_is_gone_at_once(
    fresh: MakeScene, portal: BlockingPortal
) -> None:
    scene = fresh()
    portal.call(scene.log.worker_table().enrol, "killed")
    states = {row["worker"]: row["state"] for row in scene.run("workers", "--json").json}
    assert (states["killed"], states[WORKER]) == ("gone", "live")


def test_looking_changes_nothing(fresh: MakeScene, portal: BlockingPortal) -> None:
    scene = fresh()
    before = portal.call(scene.log.workers)
    for command in (["stats"], ["workers"], ["streams", "list"], ["sessions", "list"]):
        scene.run(*command)
    assert portal.call(scene.log.workers) == before
