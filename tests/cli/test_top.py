"""`top`: what each worker does."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from anyio.from_thread import BlockingPortal

from mcp_persist_middleware.ops import stores
from mcp_persist_middleware.ops.following import Follower
from mcp_persist_middleware.settings import Settings
from mcp_persist_middleware.stores.sql.inspected import Wanted
from tests.cli.scene import GONE, WORKER, Scene, answer, progress

MakeScene = Callable[..., Scene]


class Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        told = {"status": "ready", "queued_events": 7, "commit_lag": 0.25, "secret": "x"}
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(told).encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def page() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/healthz"
        server.shutdown()
        thread.join()


def test_each_worker_is_a_line(scene: Scene) -> None:
    ran = scene.run("top", "--seconds", "0")
    assert [line.split()[0] for line in ran.lines[1:3]] == [WORKER, GONE]
    assert max(map(len, ran.lines)) <= 80
    (seen,) = [json.loads(line) for line in scene.run("top", "--seconds", "0", "--json").lines]
    assert [(row["running"], row["rate"]) for row in seen["workers"]] == [(3, 0), (1, 0)]


def test_each_look_is_told_where_no_terminal_draws_it(scene: Scene) -> None:
    ran = scene.run("top", "--seconds", "1", "--interval", "0.01")
    assert ran.out.count("Relayed requests that wait") >= 2


def test_what_a_worker_alone_knows_is_read_from_its_page(scene: Scene, page: str) -> None:
    away = "http://127.0.0.1:9/healthz"
    ran = scene.run("top", "--seconds", "0", "--json", "--health", page, "--health", away)
    told = {row["page"]: row for row in ran.json["pages"]}
    assert told[page]["queued_events"] == 7
    assert "secret" not in told[page]
    assert told[away]["status"] == "URLError"


def test_events_are_counted_once_by_worker(fresh: MakeScene, portal: BlockingPortal) -> None:
    scene = fresh()

    async def follow() -> list[dict[str, int]]:
        settings = Settings.load({"url": scene.environ["MCP_PERSIST_URL"]})
        async with stores.inspected(settings) as inspection:
            follower = Follower(inspection, Wanted())
            await follower.latest(0)
            whole = await scene.begin(progress(1), answer(2), age=0)
            await scene.finish(whole, 2, ago=0, ttl=60)
            await scene.begin(progress(1), age=0, worker=GONE)
            counts = [await follower.count(), await follower.count()]
        return [dict(+count) for count in counts]

    assert portal.call(follow) == [{WORKER: 2, GONE: 1}, {}]
