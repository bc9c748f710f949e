"""Shows that official clients keep their calls and sessions in the deployments that people have.

A FastAPI mount at `/mcp`, called at `/mcp` and at `/mcp/`; the SDK's own application at both; a
balancer that sets another cookie with each answer, and a signed session of the site that does; an
API key in the query; an application that answers 404 to a call of an
unknown tool; and all of these at once. In each, each client makes a call that is cut in its middle,
a call of a tool that nobody knows, a call while its server is stopped (SIGTERM), one after the
restart, and one after a kill and another restart, all in one session.

Run:     python -m tests.peers.deployed [--deployment NAME] [--client NAME]
         (needs the test environment; SDK 1.x has one of its own, made on first use)
Expect:  each call with its result and each progress event once, except that the unknown tool is an
         error; exit code 0.
"""

import argparse
import asyncio
import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcp_persist_middleware.testing import Cut, FaultProxy, Plan, ProxiedRequest
from tests.matrix.environments import prepare
from tests.matrix.run import CLIENTS
from tests.support.processes import ROOT, ServerProcess, running

DEPLOYMENTS = {
    "mount at /mcp": ("mount", "/mcp"),
    "mount at /mcp/": ("mount", "/mcp/"),
    "SDK at /mcp": ("", "/mcp"),
    "SDK at /mcp/": ("", "/mcp/"),
    "changing cookie": ("cookie", "/mcp"),
    "changing session": ("signed", "/mcp"),
    "key in the query": ("key", "/mcp?key=ann"),
    "404 for a tool": ("404", "/mcp"),
    "all at once": ("mount cookie signed key 404", "/mcp?key=ann"),
    "all at once /mcp/": ("mount cookie signed key 404", "/mcp/?key=ann"),
}
_SETTINGS = {"retry_ms": "300", "modern_retry_ms": "300"}
_CACHE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
_N, _DELAY = 8, 0.15
_PATIENCE = 40.0


class EndedError(Exception):
    """A client ended by itself, or said nothing for too long."""


@dataclass(slots=True)
class Client:
    """A client in its own process."""

    process: asyncio.subprocess.Process

    async def line(self) -> dict[str, Any]:
        """What it says next."""
        assert self.process.stdout is not None
        try:
            async with asyncio.timeout(_PATIENCE):
                raw = await self.process.stdout.readline()
        except TimeoutError:
            raise EndedError(f"silent for {_PATIENCE} s") from None
        if not raw:
            raise EndedError("it ended by itself")
        return dict(json.loads(raw))

    async def begin(self, tool: str, **given: Any) -> None:
        """Have a call made."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([tool, given]).encode() + b"\n")
        await self.process.stdin.drain()

    async def ended(self) -> dict[str, Any]:
        """The outcome of the call that was begun."""
        while "result" not in (said := await self.line()):
            pass
        return said

    async def call(self, tool: str, **given: Any) -> dict[str, Any]:
        """A call's outcome."""
        await self.begin(tool, **given)
        return await self.ended()


@asynccontextmanager
async def _client(name: str, url: str, python: str) -> AsyncIterator[Client]:
    process = await asyncio.create_subprocess_exec(
        *(python, "-m", "tests.peers.deployed_client", name, url),
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    client = Client(process)
    try:
        await client.line()
        yield client
    finally:
        process.kill()
        await process.wait()


class CutOnce:
    """Cuts one call, when it has been told to."""

    def __init__(self) -> None:
        self.armed = False

    def __call__(self, request: ProxiedRequest) -> Plan | None:
        """A redirect is no answer yet: what has an event is cut."""
        if request.rpc_method != "tools/call" or not self.armed:
            return None
        return Plan(cut=Cut(ids=1, events=3, size=10))


def _whole(outcome: dict[str, Any]) -> str:
    """What is wrong with a `count`, or nothing."""
    expected = list(range(1, _N + 1))
    if outcome["result"] == f"counted {_N}" and outcome["seen"] == expected:
        return ""
    return json.dumps(outcome)[:200]


async def through(deployment: str, name: str, python: str, directory: Path) -> dict[str, str]:
    """What is wrong with each of a client's calls; all of it empty is as it should be."""
    around, path = DEPLOYMENTS[deployment]
    environ = {f"MCP_PERSIST_{key.upper()}": value for key, value in _SETTINGS.items()}
    environ |= {
        "DEPLOYED": around,
        "DEPLOYED_URL": f"sqlite+aiosqlite:///{directory / 'events.db'}",
    }
    server = ServerProcess(
        "tests.peers.deployed_app:app()", directory / "server.log", environ=environ
    )
    policy, found = CutOnce(), dict[str, str]()
    async with (
        running(server),
        FaultProxy(server.port, policy) as proxy,
        _client(name, f"http://127.0.0.1:{proxy.port}{path}", python) as client,
    ):
        try:
            await _through(client, server, policy, proxy, found)
        except EndedError as error:
            found["then the client"] = str(error)
    if server.complaints:
        found["log"] = "; ".join(server.complaints)[:300]
    return {call: wrong for call, wrong in found.items() if wrong}


async def _through(
    client: Client, server: ServerProcess, policy: CutOnce, proxy: FaultProxy, found: dict[str, str]
) -> None:
    count = {"n": _N, "delay": _DELAY}
    found["first"] = _whole(await client.call("count", **count))
    policy.armed = True
    found["cut"] = _whole(await client.call("count", **count))
    found["cut"] += "" if proxy.cuts == 1 else f" cut {proxy.cuts} times"
    policy.armed = False
    unknown = await client.call("nobody_knows")
    found["unknown"] = "" if unknown["error"] else json.dumps(unknown)
    tallies = [(await client.call("tally"))["result"] for _ in range(2)]
    found["after unknown"] = "" if tallies == ["1", "2"] else f"tallies {tallies}"
    await client.begin("count", **count)
    while (await client.line()).get("progress") != 2:
        pass
    await server.terminate()
    outcome = await client.ended()
    found["while it stops"] = _whole(outcome)
    await server.start()
    found["restarted"] = _whole(await client.call("count", **count))
    await server.kill()
    await server.start()
    found["killed"] = _whole(await client.call("count", **count))


async def _all(given: argparse.Namespace) -> bool:
    right = True
    pythons = {name: prepare(given.envs, "v1") for name in given.client if CLIENTS[name] == "v1"}
    for deployment in given.deployment:
        for name in given.client:
            with tempfile.TemporaryDirectory(prefix="deployed-") as directory:
                python = pythons.get(name, sys.executable)
                wrong = await through(deployment, name, python, Path(directory))
            print(f"{deployment:<18} {name:<18} {'ok' if not wrong else ''}", flush=True)
            for call, what in wrong.items():
                print(f"    {call}: {what}", flush=True)
            right &= not wrong
    return right


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--deployment", action="append", choices=DEPLOYMENTS)
    parser.add_argument("--client", action="append", choices=CLIENTS)
    parser.add_argument("--envs", type=Path, default=_CACHE / "mcp-persist-middleware" / "matrix")
    given = parser.parse_args()
    given.deployment = given.deployment or list(DEPLOYMENTS)
    given.client = given.client or list(CLIENTS)
    right = asyncio.run(_all(given))
    print("as expected" if right else "NOT as expected")
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
