"""`streams end` and `sessions end`: what an operator ends stays ended, and everybody is told."""

import json
from collections.abc import Callable

from anyio.from_thread import BlockingPortal

from mcp_persist_middleware.model import Outcome, SessionKey, StreamWrite
from mcp_persist_middleware.ops import stores
from mcp_persist_middleware.ops.records import stream_id
from mcp_persist_middleware.settings import Settings
from tests.cli.scene import SESSION, WORKER, Scene, answer

MakeScene = Callable[..., Scene]


def test_a_stream_that_is_ended_is_answered_with_an_error(fresh: MakeScene) -> None:
    scene = fresh()
    ran = scene.run("streams", "end", scene.running)
    assert (ran.code, ran.out.split()) == (0, ["Ended:", scene.running])
    shown = scene.run("streams", "show", scene.running, "--payloads", "--json").json
    assert shown["state"] == "failed"
    error = json.loads(shown["list"][-1]["data"])["error"]
    assert error["message"].startswith("Interrupted: an operator has ended this request")


def test_its_worker_is_fenced(fresh: MakeScene, portal: BlockingPortal) -> None:
    scene = fresh()
    scene.run("streams", "end", scene.running)
    late = StreamWrite(stream_id(scene.running), 1, events=(answer(4),))
    assert portal.call(scene.log.append, [late]) == [Outcome.FENCED]


def test_a_stream_that_has_ended_is_not_ended_again(fresh: MakeScene) -> None:
    scene = fresh()
    ran = scene.run("streams", "end", scene.finished, "--json")
    assert (ran.code, ran.json) == (1, {"stream": scene.finished, "ended": False})


def test_a_session_that_is_ended_never_comes_back(fresh: MakeScene, portal: BlockingPortal) -> None:
    scene = fresh()
    ran = scene.run("sessions", "end", SESSION, "--json")
    assert (ran.code, ran.json) == (0, {"ended": 1})
    found = portal.call(scene.log.sessions.find, SessionKey("default", "/mcp", SESSION))
    assert found.deleted
    assert found.initialize == b""
    record = portal.call(scene.log.find, stream_id(scene.finished))
    assert record is None or record.expires_at == 0


def test_a_command_that_changes_something_is_no_worker(
    fresh: MakeScene, portal: BlockingPortal
) -> None:
    scene = fresh()

    async def meanwhile() -> list[str]:
        settings = Settings.load({"url": scene.environ["MCP_PERSIST_URL"]})
        async with stores.opened(settings):
            return list(await scene.log.workers())

    assert portal.call(meanwhile) == [WORKER]
