"""Shows which of the conformance suite's `tasks-*` scenarios pass in front of a server that has
never heard of tasks, without the middleware and with it.

Run:     python -m tests.peers.tasks [--cache DIRECTORY]
         (needs npm; the suite and the node it wants are installed into the cache directory once)
Expect:  without it every check fails that needs a task. With it all pass but one scenario:
         `tasks-required-task-error` asks for a tool that cannot be called without a task, and
         a tool of a server without tasks can.
"""

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from tests.peers.conformance import Checks, packages, suite
from tests.support.processes import ServerProcess, running

_APP = "tests.peers.long_tools:app()"
SCENARIOS = (
    "tasks-lifecycle",
    "tasks-capability-negotiation",
    "tasks-wire-fields",
    "tasks-request-state-removal",
    "tasks-mrtr-input",
    "tasks-request-headers",
    "tasks-dispatch-and-envelope",
    "tasks-required-task-error",
    "tasks-mrtr-composition",
)
CANNOT = {"tasks-required-task-error"}


async def _checks(modules: Path, *, persisted: bool) -> Checks:
    with tempfile.TemporaryDirectory() as directory:
        environ = {"PEER_DATABASE": str(Path(directory, "events.db"))} if persisted else {}
        log = Path(directory, "server.log")
        found: Checks = {}
        async with running(ServerProcess(_APP, log, environ=environ)) as server:
            for scenario in SCENARIOS:
                found |= await suite(modules, server.url, "--scenario", scenario)
        return found


async def _all(modules: Path) -> bool:
    bare = await _checks(modules, persisted=False)
    ours = await _checks(modules, persisted=True)
    right = True
    for scenario in SCENARIOS:
        verdicts = [ours.get(scenario, []), bare.get(scenario, [])]
        passed = [sum(status == "SUCCESS" for _, status in checks) for checks in verdicts]
        failed = [check for check, status in verdicts[0] if status == "FAILURE"]
        counts = [f"{n} of {len(checks)}" for n, checks in zip(passed, verdicts, strict=True)]
        print(f"{scenario}: {counts[0]} checks pass, {counts[1]} without", *failed)
        right &= bool(verdicts[0]) and (not failed or scenario in CANNOT)
    return right


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.peers.tasks")
    default = Path.home() / ".cache" / "mcp-persist-middleware-conformance"
    parser.add_argument("--cache", type=Path, default=default)
    right = asyncio.run(_all(packages(parser.parse_args().cache)))
    print("as expected" if right else "NOT as expected")
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
