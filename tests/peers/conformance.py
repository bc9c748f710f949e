"""Shows that the official conformance suite sees no difference with the middleware in front.

The suite runs against `tests.peers.everything`, bare and persisted, or directly and through the
proxy, for both protocol eras, and every check of every scenario is compared. What a bare server
cannot pass is judged by itself: `server-sse-polling`, and the scenarios of tasks, which the SDK's
server has not.

With `--everything` the proxy stands in front of the official TypeScript everything-server: it has
none of the suite's tools, so that much fails, directly and through the proxy alike.

Run:     python -m tests.peers.conformance [--proxy | --everything] [--cache DIRECTORY]
         (needs npm; the suite and the node it wants are installed into the cache directory once)
Expect:  no scenario differs but for the better, three successes of server-sse-polling, and exit
         code 0. The scenarios of tasks pass with the middleware, but `tasks-required-task-error`:
         it asks for a tool that cannot be called without a task, and these can.
"""

import argparse
import asyncio
import json
import re
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

from tests.peers.long_tools import TASKS_AFTER
from tests.peers.npm import install
from tests.proxied.processes import proxy, serving
from tests.proxied.upstreams import KINDS, NPM
from tests.support.processes import ServerProcess, running

_PACKAGES = ("node@22", "@modelcontextprotocol/conformance@0.2.0-alpha.12")
_APP = "tests.peers.everything:app()"
_REVISIONS = ("2025-11-25", "2026-07-28")
_POLLING = "server-sse-polling"
_POLLING_CHECKS = 3
_TASKS = "tasks-"
_NEEDS_TASKS = "tasks-required-task-error"
_LONGEST = 300.0
_SCENARIO = re.compile(r"server-(.+)-\d{4}-\d\d-\d\dT")

Checks = dict[str, list[tuple[str, str]]]
Served = Callable[[Path], AbstractAsyncContextManager[str]]


def packages(cache: Path) -> Path:
    """Where the suite is installed."""
    return install(cache, *_PACKAGES)


async def suite(modules: Path, url: str, *arguments: str) -> Checks:
    """Run the suite and read back what it found: the checks of each scenario and their status."""
    node, suite = modules / "node/bin/node", modules / "@modelcontextprotocol/conformance/dist"
    with tempfile.TemporaryDirectory() as output:
        process = await asyncio.create_subprocess_exec(
            *(str(node), str(suite / "index.js"), "server", "--url", url, "-o", output),
            *arguments,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            await asyncio.wait_for(process.wait(), _LONGEST)
        finally:
            if process.returncode is None:
                process.kill()
        return _read(Path(output))


def _read(output: Path) -> Checks:
    return {_name(found): _checks(found) for found in output.glob("*/checks.json")}


def _name(found: Path) -> str:
    match = _SCENARIO.match(found.parent.name)
    return match[1] if match else found.parent.name


def _checks(found: Path) -> list[tuple[str, str]]:
    """Checks with a verdict; the rest reports the traffic."""
    entries = [(str(entry["id"]), str(entry["status"])) for entry in json.loads(found.read_text())]
    return sorted(entry for entry in entries if entry[1] != "INFO")


@asynccontextmanager
async def _bare(directory: Path) -> AsyncIterator[str]:
    async with running(ServerProcess(_APP, directory / "server.log")) as server:
        yield server.url


@asynccontextmanager
async def _persisted(directory: Path) -> AsyncIterator[str]:
    environ = {"PEER_DATABASE": str(directory / "events.db")}
    log = directory / "server.log"
    async with running(ServerProcess(_APP, log, environ=environ)) as server:
        yield server.url


@asynccontextmanager
async def _proxied(directory: Path) -> AsyncIterator[str]:
    settings = {"TASKS_AFTER": str(TASKS_AFTER)}
    async with _bare(directory) as url, serving(front := proxy(directory, url, settings=settings)):
        yield front.url


@asynccontextmanager
async def _typescript(directory: Path) -> AsyncIterator[str]:
    async with serving(server := KINDS["everything"].start(directory, NPM)):
        yield server.url


@asynccontextmanager
async def _typescript_proxied(directory: Path) -> AsyncIterator[str]:
    async with _typescript(directory) as url, serving(front := proxy(directory, url)):
        yield front.url


async def _results(modules: Path, served: Served) -> tuple[dict[str, Checks], Checks]:
    """The checks of each revision, and those of the polling scenario."""
    with tempfile.TemporaryDirectory() as directory:
        async with served(Path(directory)) as url:
            revisions = {
                revision: await suite(modules, url, "--requirements", revision)
                for revision in _REVISIONS
            }
            return revisions, await suite(modules, url, "--scenario", _POLLING)


def _mended(checks: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """With success for failure: the proxy refuses names that a server without such a check takes,
    for one."""
    return sorted((name, "SUCCESS" if said == "FAILURE" else said) for name, said in checks)


def _failed(checks: list[tuple[str, str]]) -> int:
    return sum(status == "FAILURE" for _, status in checks)


def _failures(found: Checks) -> str:
    checks = [check for of_one in found.values() for check in of_one]
    return f"{_failed(checks)} of {len(checks)} checks fail"


def _is_better(name: str, bare: list[tuple[str, str]], ours: list[tuple[str, str]]) -> bool:
    """Whether a scenario passes, of which checks failed. One of tasks has more checks where there
    are some: what passed without passes still."""
    if not name.startswith(_TASKS):
        return _mended(bare) == ours
    passed = [check for check in bare if check[1] == "SUCCESS"]
    return not _failed(ours) and all(passed.count(check) <= ours.count(check) for check in passed)


def _without_tasks(ours: Checks) -> list[str]:
    return sorted(name for name in ours if name.startswith(_TASKS) and _failed(ours[name]))


def _compare(revision: str, bare: Checks, ours: Checks) -> bool:
    scenarios = sorted((set(bare) | set(ours)) - {_POLLING})
    different = [name for name in scenarios if bare.get(name) != ours.get(name)]
    better = [
        name for name in different if _is_better(name, bare.get(name, []), ours.get(name, []))
    ]
    print(
        f"{revision}: {len(scenarios)} scenarios; {_failures(ours)} with the middleware,"
        f" {_failures(bare)} without; {len(different) - len(better)} scenarios differ,"
        f" {len(better)} pass only with"
    )
    for name in different:
        print(
            f"  {name}: {_failures({name: ours.get(name, [])})}, without it"
            f" {_failures({name: bare.get(name, [])})}"
        )
        if name not in better:
            print(f"    bare {bare.get(name)}\n    ours {ours.get(name)}")
    print(f"  scenarios of tasks that fail with it: {_without_tasks(ours)}")
    return bool(scenarios) and different == better


async def _all(modules: Path, one: Served, other: Served) -> bool:
    bare, bare_polling = await _results(modules, one)
    ours, ours_polling = await _results(modules, other)
    same = [_compare(revision, bare[revision], ours[revision]) for revision in _REVISIONS]
    for kind, polling in (("bare", bare_polling), ("ours", ours_polling)):
        print(f"{_POLLING} {kind}: {polling}")
    if one is _typescript:
        return all(same)
    # Their tools are there.
    lacking = {name for revision in _REVISIONS for name in _without_tasks(ours[revision])}
    verdicts = [status for checks in ours_polling.values() for _, status in checks]
    is_resumed = verdicts.count("SUCCESS") >= _POLLING_CHECKS == len(verdicts)
    return all(same) and lacking <= {_NEEDS_TASKS} and is_resumed


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.peers.conformance")
    default = Path.home() / ".cache" / "mcp-persist-middleware-conformance"
    parser.add_argument("--cache", type=Path, default=default)
    behind = parser.add_mutually_exclusive_group()
    behind.add_argument("--proxy", action="store_true", help="through the proxy, not in-process")
    behind.add_argument("--everything", action="store_true", help="the same, of another server")
    given = parser.parse_args()
    modules = packages(given.cache)
    ours = _proxied if given.proxy else _persisted
    compared = (_typescript, _typescript_proxied) if given.everything else (_bare, ours)
    right = asyncio.run(_all(modules, *compared))
    print("as expected" if right else "NOT as expected")
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
