"""What `--check` says of an upstream is what it does."""

from collections.abc import Callable
from typing import Any

import pytest

from mcp_persist_middleware.ops.endpoint.look import Found
from mcp_persist_middleware.ops.proxy import Upstream, servers
from mcp_persist_middleware.ops.proxy.check import check
from tests.proxy.wired import wired
from tests.support import servers as applications
from tests.support.scripted import serving
from tests.support.stateful import Stateful
from tests.support.stores import free_port

ALL = ("2026-07-28", "2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05")


def url_of(port: int) -> str:
    return f"http://127.0.0.1:{port}/mcp"


async def checked(port: int) -> Found:
    (found,) = await check([Upstream(url_of(port))])
    return found


@pytest.mark.parametrize(
    ("mode", "sessions", "answers"),
    [
        ("stateful", True, "event streams"),
        ("json", True, "json"),
        ("stateless", False, "event streams"),
    ],
)
async def test_an_official_server_is_seen_as_it_was_set_up(
    monkeypatch: pytest.MonkeyPatch, mode: str, sessions: bool, answers: str
) -> None:
    monkeypatch.setenv("TEST_MODE", mode)
    async with serving(applications.app()) as port:
        found = await checked(port)
    assert (found.trouble, found.revisions, found.tasks) == (None, ALL, ())
    assert (found.sessions, found.answers) == (sessions, answers)
    assert found.get_stream is True
    assert (found.auth, found.buffering) == ("none asked for", "none seen")
    assert found.server is not None
    assert found.server.startswith("tests")


async def test_a_server_of_one_revision_without_a_get_stream_is_left_without_a_session() -> None:
    app = Stateful()
    async with serving(app) as port:
        found = await checked(port)
    assert found.revisions == ALL[1:]  # it takes whichever it is asked for
    assert (found.sessions, found.get_stream, found.answers) == (True, False, "json")
    assert found.buffering is None
    assert not app.sessions
    assert "revisions   2025-11-25, 2025-06-18" in str(found)


GREETING = (
    b'event: message\ndata: {"jsonrpc":"2.0","id":1,"result":{"protocolVersion":"2025-11-25",'
    b'"capabilities":{"tasks":{}},"serverInfo":{"name":"s","version":"2"}}}\n\n'
)
COLLECTED = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: %d\r\n\r\nid: 1\n%s"
    % (len(GREETING) + 6, GREETING)
)


async def test_a_stream_that_came_as_a_whole_shows_that_something_collects_it() -> None:
    async with wired(COLLECTED) as server:
        found = await checked(server.port)
    assert found.buffering == "event streams are collected: they come with a Content-Length"
    assert (found.event_ids, found.tasks, found.revisions) == (True, ALL[1:2], ALL[1:2])


@pytest.mark.parametrize(
    ("answer", "trouble"),
    [
        (
            b"HTTP/1.1 401 Unauthorized\r\nwww-authenticate: Bearer\r\ncontent-length: 0\r\n\r\n",
            "--header-file",
        ),
        (b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", "initialize with 404"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nnull", "no MCP endpoint"),
        (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", "initialize with 502"),
    ],
)
async def test_what_cannot_be_served_is_said_with_the_reason(answer: bytes, trouble: str) -> None:
    async with wired(answer) as server:
        found = await checked(server.port)
    assert found.trouble is not None
    assert trouble in found.trouble
    assert found.auth == ("Bearer" if b"401" in answer else None)
    assert not found.revisions


async def test_servers_that_promise_different_things_are_told_apart() -> None:
    makes: list[Callable[[], Any]] = [Stateful, Stateful, lambda: Stateful(tools=False)]
    async with serving(makes[0]()) as a, serving(makes[1]()) as b, serving(makes[2]()) as c:
        found = await check(servers([url_of(a), url_of(b), url_of(c), url_of(free_port())]))
    troubles = [each.trouble or "" for each in found]
    assert troubles[:2] == ["", ""]
    assert f"other things than {url_of(a)}" in troubles[2]
    assert "cannot be reached" in troubles[3]
