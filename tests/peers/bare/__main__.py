"""Shows that nothing is answered worse behind the middleware than without it.

The same requests go to an application and to the same application behind the middleware, over raw
sockets: those that somebody met, and some that a seed makes. Ours is in one of the states: `fresh`;
`back`, a session whose server was killed and started again; `elsewhere`, asked at a worker that is
not the session's home; `degraded`, with a store that takes no writes; `shut`, with a store that
cannot be opened at all. Bare has a fresh session of a fresh server. Compared are status, headers,
body, events and comments of a stream, how it ends, whether the connection lives on, and times.

Run:     python -m tests.peers.bare --server raw --http uvicorn --state fresh
         python -m tests.peers.bare --requests 60      (every server, HTTP server and state)
         (needs the test environment; SDK 1.x has one of its own, made on first use)
Expect:  a table, with requests in each row and no difference without a name; exit code 0.
"""

import argparse
import asyncio
import os
import sys
import time
import traceback
from collections import Counter
from itertools import product
from pathlib import Path

from tests.matrix.environments import prepare
from tests.peers.bare.cases import CASES
from tests.peers.bare.generate import generated
from tests.peers.bare.hunt import Found, Hunt, Outcome
from tests.peers.bare.named import NAMED
from tests.peers.bare.requests import Case
from tests.peers.bare.sites import HTTP, PYTHON, STATES, site

SERVERS = ("raw", "sdk2", "sdk1", "fastmcp")
_CACHE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
_ALSO = 400
_ROW = "{:<8} {:<10} {:<10} {:>6} {:>9} {:>6} {:>8} {:>9} {:>6}"
_COLUMNS = ("server", "http", "state", "cases", "requests", "named", "unnamed", "unstable", "s")


def cases_for(server: str, count: int, seed: int, only: str = "") -> list[Case]:
    """The cases that a server is given."""
    known = [case for case in CASES if not case.servers or server in case.servers]
    return [case for case in [*known, *generated(count, seed)] if only in case.name]


def report(found: list[Found]) -> None:
    """Each difference with the smallest case that shows it."""
    for each in found:
        print(f"  {each.difference}")
        print(f"    in {each.case.name!r}, step {each.step}: {each.request}")
        if len(each.case.steps) > 1:
            print("    steps: " + "; ".join(map(str, each.case.steps)))
        if each.also:
            print(f"    and {len(each.also)} more: {', '.join(each.also)[:_ALSO]}")


async def _all(given: argparse.Namespace) -> bool:
    rows, named = [_ROW.format(*_COLUMNS)], Counter[str]()
    print(rows[0])
    right = True
    for server, http, state in product(given.server, given.http, given.state):
        began = time.monotonic()
        try:
            outcome = await _one(given, server, http, state)
        except Exception as error:
            # One of them that cannot be asked keeps no other from being asked.
            traceback.print_exception(error)
            outcome = Outcome()
        named += outcome.named
        counts = (outcome.cases, outcome.requests, sum(outcome.named.values()))
        rest = (len(outcome.found), len(outcome.passing), f"{time.monotonic() - began:.0f}")
        rows.append(_ROW.format(server, http, state, *counts, *rest))
        print(rows[-1])
        report(outcome.found)
        if given.passing and outcome.passing:
            print("  and once only:")
            report(outcome.passing)
        sys.stdout.flush()
        right &= outcome.requests > 0 and not outcome.found
    print("named exceptions:")
    for each in NAMED:
        print(f"  {named[each.name]:>7}  {each.name}: {each.reason}")
    print(*rows, sep="\n")
    return right


async def _one(given: argparse.Namespace, server: str, http: str, state: str) -> Outcome:
    python = _python(given.envs, server)
    async with site(state, server, http, python, mode=given.mode) as made:
        hunt = Hunt(made, server, http, given.at_once)
        cases = cases_for(server, given.requests, given.seed, given.only)
        return await hunt.run(cases, shrink=not given.whole)


def _python(envs: Path, server: str) -> str:
    return prepare(envs, "v1", also=("hypercorn", "granian")) if server == "sdk1" else PYTHON


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, choices in (("server", SERVERS), ("http", HTTP), ("state", STATES)):
        parser.add_argument(f"--{name}", action="append", choices=(*choices, "all"))
    parser.add_argument("--requests", type=int, default=200, help="how many are generated")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--mode", default="stateful", choices=("stateful", "json"))
    parser.add_argument("--only", default="", help="cases whose name has this in it")
    parser.add_argument("--whole", action="store_true", help="all that differs, not shrunk")
    parser.add_argument("--passing", action="store_true", help="also what differed only once")
    parser.add_argument("--at-once", type=int, default=6)
    parser.add_argument("--envs", type=Path, default=_CACHE / "mcp-persist-middleware" / "matrix")
    given = parser.parse_args()
    for name, choices in (("server", SERVERS), ("http", HTTP), ("state", STATES)):
        chosen = getattr(given, name) or ["all"]
        setattr(given, name, list(choices) if "all" in chosen else chosen)
    return given


def main() -> int:
    right = asyncio.run(_all(_arguments()))
    print("as expected" if right else "NOT as expected")
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
