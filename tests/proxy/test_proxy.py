"""The proxy as people run it: a process in front of a server that knows nothing of it."""

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.proxied.processes import alive, children, proxy, serving
from tests.support.processes import ROOT, ServerProcess, mcp_server, running
from tests.support.scripted import until
from tests.support.session import HANDSHAKE, MODERN, RawSession, last_id
from tests.support.sse_client import request

pytestmark = pytest.mark.timeout(60)


@dataclass
class Both:
    """A server, and the proxy in front of it."""

    upstream: ServerProcess
    proxy: ServerProcess


@contextlib.asynccontextmanager
async def proxied(directory: Path, **given: object) -> AsyncIterator[Both]:
    upstream = mcp_server(directory, name="upstream", persist=False)
    async with running(upstream):
        arguments = {
            "upstream": [upstream.url],
            "url": str(directory / "events.db"),
            "connect_timeout": 5,
            "head_timeout": None,
            "idle_timeout": None,
            "max_requests": 100,
            "path": None,
            "cors": [],
            "host": "127.0.0.1",
            "allowed_host": [],
            "preserve_host": False,
            "trust_forwarded": False,
            "header_file": None,
            "ca_file": None,
            "client_cert": None,
            "client_key": None,
        }
        environ = {"_MCP_PERSIST_PROXY": json.dumps(arguments | given)}
        module = "mcp_persist_middleware.ops.proxy_command:application()"
        proxy = ServerProcess(module, directory / "proxy.log", environ=environ)
        async with running(proxy):
            yield Both(upstream, proxy)
        assert not proxy.complaints


@pytest.mark.parametrize("version", [HANDSHAKE, MODERN])
async def test_a_call_whose_connection_is_cut_is_read_to_its_result(
    tmp_path: Path, version: str
) -> None:
    async with proxied(tmp_path) as both:
        session = await RawSession.open(both.proxy.port, version)
        response = await session.call("count", n=20, delay=0.02)
        first = await response.take(3)
        response.reset()
        resumed = await session.get(last_id(first))
        rest = [frame async for frame in resumed.frames() if frame.data]
        assert [f.progress for f in [*first, *rest]] == [*range(1, 21), None]
        assert "result" in rest[-1].message
        assert "cancelled" not in both.upstream.log


async def test_an_upstream_that_is_killed_ends_its_calls_honestly_and_its_sessions_go_on(
    tmp_path: Path,
) -> None:
    async with proxied(tmp_path) as both:
        session = await RawSession.open(both.proxy.port)
        response = await session.call("count", n=1000, delay=0.02)
        await response.take(2)
        await both.upstream.kill()
        frames = [frame async for frame in response.frames() if frame.data]
        assert frames[-1].message["error"]["message"].startswith("Interrupted")
        refused = await (await session.call("echo", text="nobody is there")).body()
        assert b"HTTP status 502" in refused
        await both.upstream.start()
        answer = await session.call("echo", text="again")
        assert b"again" in await answer.body()


async def test_a_proxy_that_is_killed_goes_on_in_its_sessions_and_streams(tmp_path: Path) -> None:
    async with proxied(tmp_path) as both:
        session = await RawSession.open(both.proxy.port)
        response = await session.call("count", n=3, delay=0.02)
        first = await response.take(2)
        await response.body()
        running_call = await session.call("count", n=1000, delay=0.02)
        begun = await running_call.take(2)
        await both.proxy.kill()
        await both.proxy.start()
        kept = await (await session.get(last_id(first))).body()
        assert b"counted 3" in kept
        ended = await (await session.get(last_id(begun))).body()
        assert b"Interrupted" in ended
        answer = await session.call("echo", text="again")
        assert b"again" in await answer.body()


async def test_what_is_not_mcp_is_answered_as_the_upstream_answers_it(tmp_path: Path) -> None:
    async with proxied(tmp_path) as both:
        for method, path in (("GET", "/nowhere?x=1"), ("GET", "/mcp"), ("DELETE", "/mcp")):
            seen = []
            for server in (both.upstream, both.proxy):
                response = await request(server.port, method, path)
                varies = ("date", "mcp-session-id")
                headers = {k: v for k, v in response.headers.items() if k not in varies}
                seen.append((response.status, headers, await response.body()))
            assert seen[0] == seen[1]


# The command line.


def proxy_command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "mcp_persist_middleware", "proxy", *arguments]


def ran(*arguments: str) -> "subprocess.CompletedProcess[str]":
    environ = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "250"}
    return subprocess.run(
        proxy_command(*arguments),
        check=False,
        capture_output=True,
        text=True,
        timeout=30,
        env=environ,
    )


async def test_the_command_serves_and_ends_at_a_signal(tmp_path: Path) -> None:
    upstream = mcp_server(tmp_path, name="upstream", persist=False)
    async with running(upstream):
        command = proxy_command("--upstream", upstream.url, "--url", "events.db", "--port", "0")
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stderr=asyncio.subprocess.PIPE,
        )
        assert process.stderr is not None
        async with asyncio.timeout(20):
            while not (found := re.search(rb":(\d+) ", line := await process.stderr.readline())):
                assert line
        session = await RawSession.open(int(found[1]))
        assert b"hello" in await (await session.call("echo", text="hello")).body()
        process.send_signal(signal.SIGTERM)
        _, _ = await asyncio.wait_for(process.communicate(), 20)
        assert process.returncode in (0, -signal.SIGTERM)
        assert (tmp_path / "events.db").exists()


async def test_the_workers_of_a_process_that_is_killed_end(tmp_path: Path) -> None:
    front = proxy(tmp_path, "http://127.0.0.1:1/mcp", more=("--workers", "2"))
    async with serving(front):
        workers = set(children(front.pid))
        await front.kill()
        assert len(workers) >= 2
        await until(lambda: not alive(workers))


WRONG = [
    ([], "--upstream"),
    (["--upstream", "ftp://x"], "expected a URL such as"),
    (["--upstream", "http://x", "--head-timeout", "0"], "a time such as 90, 90s or 5m, above 0"),
    (["--upstream", "http://x", "--idle-timeout", "5x"], "above 0, not '5x'"),
    (["--upstream", "http://x/a", "--upstream", "http://y/b"], "the paths differ (/a, /b)"),
    (["--upstream", "http://x", "--path", "mcp/"], "path: expected a path such as /mcp"),
    (["--upstream", "http://x", "--cors", "app.example"], "not 'app.example'"),
    (["--upstream", "http://x", "--header-file", "nowhere"], "nowhere cannot be read"),
    (["--upstream", "http://x", "--client-key", "k.pem"], "--client-cert"),
    (["--upstream", "https://x", "--ca-file", "nowhere.pem"], "nowhere.pem cannot be used"),
]
# Most of what a process costs is its imports.
EACH = """
import contextlib, io, json, sys
from mcp_persist_middleware.ops.cli import main
for arguments in json.loads(sys.argv[1]):
    with contextlib.redirect_stderr(io.StringIO()) as said:
        try:
            code = main(["proxy", *arguments])
        except SystemExit as end:
            code = end.code
    print(json.dumps([code, said.getvalue()]))
"""


def test_a_wrong_argument_is_named_before_anything_is_served() -> None:
    given = json.dumps([arguments for arguments, _ in WRONG])
    done = subprocess.run(
        [sys.executable, "-c", EACH, given],
        check=True,
        capture_output=True,
        text=True,
        timeout=30,
        env=os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "250"},
    )
    for (arguments, part), line in zip(WRONG, done.stdout.splitlines(), strict=True):
        code, said = json.loads(line)
        assert (code, part in said) == (2, True), (arguments, said)


def test_a_line_that_is_no_header_is_named_by_its_number_and_not_shown(tmp_path: Path) -> None:
    file = tmp_path / "headers"
    file.write_text("# ours\nAuthorization: Bearer secret\n\nsecret without a name\n")
    done = ran("--upstream", "http://x", "--header-file", str(file))
    assert done.returncode == 2
    assert "line 4" in done.stderr
    assert "secret" not in done.stderr


def test_a_check_says_what_an_upstream_speaks_and_ends_with_1_where_it_cannot_be_served() -> None:
    done = ran("--upstream", "http://127.0.0.1:1/mcp", "--check", "--json")
    assert done.returncode == 1
    said = json.loads(done.stdout)
    assert said == {
        "ok": False,
        "upstreams": [
            {
                "upstream": "http://127.0.0.1:1/mcp",
                "trouble": "it cannot be reached (Connection refused)",
            }
        ],
    }
