"""`tail`: every event is told once, in the order of its stream."""

from collections.abc import Callable

from anyio.from_thread import BlockingPortal

from mcp_persist_middleware.model import StreamWrite
from mcp_persist_middleware.ops import stores
from mcp_persist_middleware.ops.following import Follower
from mcp_persist_middleware.settings import Settings
from mcp_persist_middleware.stores.sql.inspected import Wanted
from tests.cli.scene import SESSION, Scene, answer, progress

MakeScene = Callable[..., Scene]


def test_the_newest_events_are_shown(scene: Scene) -> None:
    rows = [line.split() for line in scene.run("tail", "-n", "4").lines]
    assert [(row[0], row[1]) for row in rows] == [
        (scene.orphan, "1"),
        (scene.lacking, "6"),
        (scene.lacking, "7"),
        (scene.lacking, "8"),
    ]


def test_one_stream_alone_is_shown_with_what_it_says(scene: Scene) -> None:
    ran = scene.run("tail", "--stream", scene.finished, "--payloads")
    assert len(ran.lines) >= 4
    assert '"progress": 1' in ran.out
    assert '"text": "42"' in ran.out


def test_events_of_another_session_are_not_shown(scene: Scene) -> None:
    assert scene.run("tail", "--session", "another").out == ""
    assert scene.run("tail", "--session", SESSION, "--json").out.count('"sequence"') == 11


def test_following_ends_after_its_time(scene: Scene) -> None:
    ran = scene.run("tail", "-f", "--seconds", "0", "-n", "1")
    assert ran.code == 0
    assert len(ran.lines) == 1


def test_who_follows_and_asks_for_nothing_older_is_told_nothing_older(
    fresh: MakeScene, portal: BlockingPortal
) -> None:
    scene = fresh()
    portal.call(lambda: scene.begin(progress(1), answer(2), age=0))
    assert scene.run("tail", "-f", "-n", "0", "--seconds", "0.1").lines == []
    assert len(scene.run("tail", "-f", "-n", "1", "--seconds", "0.1").lines) == 1


def test_what_comes_is_told_once_also_of_a_stream_that_begins_and_ends_unseen(
    fresh: MakeScene, portal: BlockingPortal
) -> None:
    scene = fresh()

    async def follow() -> list[list[int]]:
        settings = Settings.load({"url": scene.environ["MCP_PERSIST_URL"]})
        told = []
        async with stores.inspected(settings) as inspection:
            follower = Follower(inspection, Wanted())
            await follower.latest(5)
            told.append(await follower.look())
            going_on = await scene.begin(progress(1), age=0)
            told.append(await follower.look())
            whole = await scene.begin(progress(1), answer(2), age=0)
            await scene.finish(whole, 2, ago=0, ttl=60)
            await scene.log.append([StreamWrite(going_on.id, 1, events=(answer(2),))])
            await scene.finish(going_on, 2, ago=0, ttl=60)
            told.append(await follower.look())
            told.append(await follower.look())
        return [[event.head.sequence for event in events] for events in told]

    assert portal.call(follow) == [[], [1], [2, 1, 2], []]
