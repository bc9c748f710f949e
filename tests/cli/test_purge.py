"""`purge` removes what is asked for and nothing else, and `deletions` says so."""

from collections.abc import Callable

import pytest
from anyio.from_thread import BlockingPortal

from mcp_persist_middleware.model import Outcome, StreamWrite
from mcp_persist_middleware.ops.records import name_of, stream_id
from tests.cli.scene import ANN, SESSION, Scene, answer, progress, run
from tests.cli.test_tasks import begun

MakeScene = Callable[..., Scene]


def left(scene: Scene) -> set[str]:
    return {each["stream"] for each in scene.run("streams", "list", "--json").json}


def test_what_ended_long_ago_goes_and_what_runs_stays(fresh: MakeScene) -> None:
    scene = fresh()
    before = left(scene)
    assert scene.run("purge", "--older-than", "30d", "--json").json == {"streams": 0, "events": 0}
    assert left(scene) == before
    gone = scene.run("purge", "--older-than", "0s", "--json").json
    assert gone["streams"] >= 1
    assert scene.finished not in left(scene)
    assert {scene.running, scene.orphan, scene.listening} <= left(scene)
    told = scene.run("deletions", "--json").json
    assert {(each["reason"], each["kind"]): each["count"] for each in told} == {
        ("age", kind): count for kind, count in gone.items()
    }


def test_what_has_expired_goes_at_once(fresh: MakeScene, portal: BlockingPortal) -> None:
    scene = fresh()

    async def expire() -> bytes:
        late = await scene.begin(progress(1), progress(2))
        await scene.finish(late, 2, ago=60, ttl=30)
        return late.id

    late = portal.call(expire)
    before = left(scene)
    assert scene.run("purge", "--json").json == {"streams": 1, "events": 2}
    assert before - left(scene) == {name_of(late)}


def test_what_is_somebodys_is_erased_and_nothing_of_others(
    fresh: MakeScene, portal: BlockingPortal
) -> None:
    scene = fresh()
    listed = scene.run("streams", "list", "--json").json
    theirs = {each["stream"] for each in listed if each["session"] == SESSION}
    others = left(scene) - theirs
    gone = scene.run("purge", "--session", SESSION, "--json").json
    assert gone["streams"] == len(theirs) > 0
    assert gone["sessions"] == 1
    assert left(scene) == others
    late = StreamWrite(stream_id(scene.running), 1, events=(answer(4),))
    assert portal.call(scene.log.append, [late]) == [Outcome.FENCED]
    assert {each["reason"] for each in scene.run("deletions", "--json").json} == {"forgotten"}


@pytest.mark.parametrize(
    "meant", [["--session", SESSION], ["--principal", ANN], ["--older-than", "0s"], []]
)
def test_a_dry_run_counts_what_goes_and_removes_nothing(fresh: MakeScene, meant: list[str]) -> None:
    scene = fresh()
    before = left(scene)
    counted = scene.run("purge", "--dry-run", "--json", *meant).json
    assert left(scene) == before
    assert scene.run("deletions").out == "Nothing was removed of late.\n"
    gone = scene.run("purge", "--json", *meant).json
    assert {name: gone[name] for name in counted} == counted


def test_a_dry_run_counts_tasks_too(fresh: MakeScene, portal: BlockingPortal) -> None:
    scene = fresh()
    begun(scene, portal)
    counted = scene.run("purge", "--dry-run", "--json", "--principal", ANN).json
    gone = scene.run("purge", "--json", "--principal", ANN).json
    assert counted["jobs"] == gone["jobs"] == 2
    assert {name: gone[name] for name in counted} == counted


def test_who_is_nobody_is_said(fresh: MakeScene) -> None:
    ran = fresh().run("purge", "--session", "")
    assert (ran.code, ran.out) == (2, "")
    assert "is nobody's" in ran.err


def test_a_time_that_is_none_is_said() -> None:
    assert run("purge", "--older-than", "long").code == 2
