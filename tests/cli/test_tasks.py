"""`tasks`: what has become of calls that are asked for later, and how an operator ends one."""

from collections.abc import Callable

from anyio.from_thread import BlockingPortal

from mcp_persist_middleware.model import JobRecord
from mcp_persist_middleware.ops.records import stream_id
from mcp_persist_middleware.protocol import job_id
from mcp_persist_middleware.testing.contract.cases.jobs import job
from tests.cli.scene import Scene

MakeScene = Callable[..., Scene]


def begun(scene: Scene, portal: BlockingPortal) -> tuple[str, str]:
    """A task that has ended and one that runs."""

    async def create(stream: str, tool: str) -> JobRecord:
        record, jobs = await scene.log.find(stream_id(stream)), scene.log.jobs
        assert record is not None
        assert jobs is not None
        made = job(scene.log, record, owner=record.owner, tool=tool)
        await jobs.create(made, 10, 10)
        return made

    done = portal.call(create, scene.finished, "add")
    running = portal.call(create, scene.running, "render")
    return job_id.name(done.id), job_id.name(running.id)


def test_tasks_are_listed_and_shown_as_they_are(fresh: MakeScene, portal: BlockingPortal) -> None:
    scene = fresh()
    done, running = begun(scene, portal)
    rows = scene.run("tasks", "list", "--json").json
    assert [(row["task"], row["status"], row["tool"]) for row in rows] == [
        (running, "working", "render"),
        (done, "completed", "add"),
    ]
    assert rows[0]["message"] == "3"
    some = scene.run("tasks", "list", "--status", "completed", "--json").json
    assert [row["task"] for row in some] == [done]
    shown = scene.run("tasks", "show", done, "--json").json
    assert (shown["stream"], shown["face"]) == (scene.finished, "extension")
    # Its result, that is: its age may have any digits.
    assert "content" not in str(shown)


def test_the_result_of_a_task_is_printed_as_it_was_written(
    fresh: MakeScene, portal: BlockingPortal
) -> None:
    scene = fresh(compression="gzip", compress_min_bytes="1")
    done, running = begun(scene, portal)
    assert scene.run("tasks", "result", done).lines == [
        '{"content": [{"type": "text", "text": "42"}]}'
    ]
    ran = scene.run("tasks", "result", running)
    assert (ran.code, "working" in ran.out) == (1, True)
    assert scene.run("tasks", "show", "x" * 32).code == 2


def test_a_task_is_cancelled_once_and_one_that_has_ended_keeps_its_result(
    fresh: MakeScene, portal: BlockingPortal
) -> None:
    scene = fresh()
    done, running = begun(scene, portal)
    for task, cancelled in ((running, True), (running, False), (done, False)):
        ran = scene.run("tasks", "cancel", task, "--json")
        assert (ran.code, ran.json["cancelled"]) == (not cancelled, cancelled)
    assert scene.run("tasks", "show", running, "--json").json["status"] == "cancelled"
    assert '"42"' in scene.run("tasks", "result", done).out
