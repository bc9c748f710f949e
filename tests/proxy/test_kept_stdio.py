"""Sessions and streams of a server on pipes are kept as those of any other."""

import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from mcp_persist_middleware import ConfigurationError
from mcp_persist_middleware.ops import cli
from mcp_persist_middleware.ops.proxy import StdioOptions, UpstreamOptions, config_app, proxy_app
from mcp_persist_middleware.ops.proxy.stdio.child import Child
from tests.proxy.test_stdio import PIPED, gone, is_alive, pid, text
from tests.support.processes import ServerProcess, running
from tests.support.scripted import serving, until
from tests.support.session import HANDSHAKE, MODERN, RawSession, last_id
from tests.support.sse_client import request

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals and process groups"),
]


@asynccontextmanager
async def kept(directory: Path, **options: Any) -> AsyncIterator[int]:
    """A server on pipes behind the middleware; its port."""
    stdio = StdioOptions(stop_timeout=0.2, **options)
    app = proxy_app(url=str(directory / "events.db"), command=PIPED, stdio=stdio)
    async with serving(app) as port:
        yield port


@pytest.mark.parametrize("version", [HANDSHAKE, MODERN])
async def test_a_call_whose_connection_is_cut_is_read_to_its_result(
    tmp_path: Path, version: str
) -> None:
    async with kept(tmp_path) as port:
        session = await RawSession.open(port, version)
        response = await session.call("count", n=20, delay=0.02)
        first = await response.take(3)
        response.reset()
        resumed = await session.get(last_id(first))
        rest = [frame async for frame in resumed.frames() if frame.data]
        assert [f.progress for f in [*first, *rest]] == [*range(1, 21), None]
        assert "result" in rest[-1].message


async def test_a_session_whose_process_died_or_was_unused_goes_on_in_a_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish, ended = Child._finish, list[Child]()

    async def noted(self: Child, why: str) -> None:
        ended.append(self)
        await finish(self, why)

    monkeypatch.setattr(Child, "_finish", noted)
    async with kept(tmp_path, idle_seconds=2) as port:
        session = await RawSession.open(port)
        first, _ = await pid(session)
        os.kill(first, 9)
        # A call that it is given before its end is known ends with it.
        await until(lambda: ended)
        second, _ = await pid(session)
        await gone(second)
        third, _ = await pid(session)
        assert len({first, second, third}) == 3


async def test_a_process_is_ended_for_want_of_use_although_somebody_listens(
    tmp_path: Path,
) -> None:
    async with kept(tmp_path, idle_seconds=2) as port:
        session = await RawSession.open(port)
        first, _ = await pid(session)
        stream = await session.get()
        await gone(first)
        # The stream ends in order, and whoever is there comes back to a new process.
        assert await stream.take(1) == []
        stream = await session.get()
        await text(await session.call("change"))
        [change] = await stream.take(1)
        assert change.message["method"] == "notifications/tools/list_changed"


async def test_callers_share_no_process_whatever_their_credentials_are(tmp_path: Path) -> None:
    async with kept(tmp_path) as port:
        ann, bob = (
            RawSession(port, MODERN, extra={"authorization": f"Bearer {name}"})
            for name in ("ann-token", "bob-token")
        )
        found = [await pid(who) for who in (ann, ann, bob)]
        assert found[0][0] == found[1][0] != found[2][0]


def arguments(directory: Path) -> dict[str, object]:
    """What the command was given."""
    return {
        "program": PIPED,
        "url": str(directory / "events.db"),
        "host": "127.0.0.1",
        "cwd": None,
        "env": [],
        "pass_environment": False,
        "allowed_host": [],
        "cors": [],
        "max_children": 100,
        "child_idle": 600.0,
    }


async def test_a_proxy_that_is_killed_leaves_no_process_and_goes_on_in_its_sessions(
    tmp_path: Path,
) -> None:
    module = "mcp_persist_middleware.ops.proxy_command:application()"
    environ = {"_MCP_PERSIST_PROXY": json.dumps(arguments(tmp_path))}
    proxy = ServerProcess(module, tmp_path / "proxy.log", environ=environ)
    async with running(proxy):
        session = await RawSession.open(proxy.port)
        process, _ = await pid(session)
        heir = int(await text(await session.call("fork")))
        begun = await session.call("count", n=1000, delay=0.02)
        first = await begun.take(2)
        assert is_alive(heir)
        await proxy.kill()
        await gone(process, heir)
        await proxy.start()
        ended = await (await session.get(last_id(first))).body()
        assert b"Interrupted" in ended
        assert (await pid(session))[1] == 1
    assert not proxy.complaints


# Many servers from one file.


def written(directory: Path, content: object) -> Path:
    file = directory / "mcp.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


def server(*more: str, **others: object) -> dict[str, object]:
    return {"command": PIPED[0], "args": [*PIPED[1:], *more], **others}


@pytest.mark.parametrize("key", ["mcpServers", "servers"])
async def test_each_server_of_a_file_has_a_path_and_a_page_lists_them(
    tmp_path: Path, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WHOSE", "from outside")
    one = server(env={"FIRST": "${WHOSE} ${NOT_THERE:-or not}"}, cwd=str(tmp_path))
    remote = {"url": "http://127.0.0.1:1/deep/mcp", "headers": {"Authorization": "Bearer hush"}}
    off = {"command": "no-such-program", "disabled": True}
    file = written(tmp_path, {key: {"one": one, "two": server(), "far": remote, "off": off}})
    options = UpstreamOptions(connect_timeout=0.1)
    async with serving(config_app(file, str(tmp_path / "events.db"), options=options)) as port:
        sessions = [
            await RawSession.open(port, path=f"/servers/{name}/mcp") for name in ("one", "two")
        ]
        names = [json.loads(await text(await s.call("environment")))[0] for s in sessions]
        assert ["FIRST" in each for each in names] == [True, False]
        sessions[0].path = "/servers/two/mcp"
        assert (await sessions[0].call("pid")).status == 404
        page = await (await request(port, "GET", "/")).body()
        listed = await (
            await request(port, "GET", "/", headers={"accept": "application/json"})
        ).body()
        for name in (b"one", b"two", b"far"):
            assert b"/servers/%s/mcp" % name in page
            assert b"/servers/%s/mcp" % name in listed
        assert b"hush" not in page + listed
        assert b"outside" not in page + listed
        far = RawSession(port, path="/servers/far/mcp")
        assert (await far.post("initialize", {"protocolVersion": HANDSHAKE})).status == 502
        assert (await request(port, "POST", "/servers/off/mcp", body=b"{}")).status == 404


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"mcpServers": {"a": secret}}', "is no JSON: line 1, column"),
        ("[]", "expected {"),
        ({"mcpServers": {}}, "expected {"),
        ({"mcpServers": {"a b": server()}}, "'a b' is no name that a path can have"),
        ({"mcpServers": {"a": []}}, "server 'a' expected an object"),
        ({"mcpServers": {"a": {}}}, "server 'a' expected a command or a url"),
        ({"mcpServers": {"a": {"command": "sh", "url": "http://x"}}}, "has a command and a url"),
        ({"mcpServers": {"a": {"type": "sse", "url": "http://x"}}}, "HTTP\\+SSE"),
        ({"mcpServers": {"a": {"command": "sh", "args": "secret"}}}, "args: expected a list"),
        ({"mcpServers": {"a": server(env={"K": 1})}}, "env: the value of 'K' is no text"),
        ({"mcpServers": {"a": server(env="secret")}}, "env: expected an object"),
        ({"mcpServers": {"a": server(env={"K": "secret ${NO_SUCH}"})}}, "K: .* variable NO_SUCH"),
        ({"mcpServers": {"a": server(env={"K": "${input:k}"})}}, "use \\$\\{NAME\\}"),
        ({"mcpServers": {"a": {"command": "no-such-program"}}}, "server 'a' .* no-such-program"),
        ({"mcpServers": {"a": {"url": "ftp://secret@x"}}}, "server 'a' .* expected a URL"),
        ({"mcpServers": {"a": server(cwd="/nowhere")}}, "server 'a' .* no directory"),
    ],
)
def test_what_is_wrong_in_a_file_is_named_and_no_value_shown(
    tmp_path: Path, content: object, said: str
) -> None:
    with pytest.raises(ConfigurationError, match=said) as raised:
        config_app(written(tmp_path, content), "events.db")
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--upstream", "http://x", "--", "sh"], "expected one of --upstream"),
        (["--config", "nowhere.json"], "nowhere.json cannot be read"),
        (["--env", "NO_SUCH_NAME", "--", "sh"], "--env NO_SUCH_NAME"),
        (["--env", "=secret", "--", "sh"], "--env: expected NAME=VALUE"),
        (["--url", "events.db", "--", "no-such-program", "--port", "1"], "no-such-program is no"),
    ],
)
def test_a_wrong_argument_about_a_command_is_named(
    arguments: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The command leaves them there for its workers.
    monkeypatch.setenv("_MCP_PERSIST_PROXY", "")
    assert cli.main(["proxy", *arguments]) == 2
    printed = capsys.readouterr().err
    assert said in printed
    assert "secret" not in printed
