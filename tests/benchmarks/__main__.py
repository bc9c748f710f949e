"""`python -m tests.benchmarks`: run the measures, print the table, write JSON and picture."""

import argparse
import asyncio
import importlib.util
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks import (
    ages,
    calls,
    journal,
    logs,
    memory,
    paired,
    payloads,
    picture,
    relay,
    report,
    streams,
    tail,
)
from tests.benchmarks.contenders import OURS, PEERS, USUAL, Loop
from tests.benchmarks.rounds import Measure, Plan
from tests.benchmarks.servers import Servers
from tests.benchmarks.wire import BenchmarkError
from tests.support.started import fixtures
from tests.support.stores import Fixture

MEASURES: dict[str, Measure] = {
    "call": calls.single_calls,
    "calls": calls.many_calls,
    "json": calls.json_calls,
    "modern": calls.modern_calls,
    "event": streams.single_events,
    "beside": ages.beside_calls,
    "some": ages.some_streams,
    "idle-crowd": ages.idle_crowd,
    "many": streams.many_streams,
    "one": streams.one_stream,
    "sixteen": streams.sixteen_streams,
    "crowd": streams.crowd,
    "raw": streams.raw_streams,
    "relay": relay.relayed_calls,
    "tail": tail.live_tail,
    "sessions": memory.idle_sessions,
    "memory": memory.idle_calls,
    "sized": payloads.sized_calls,
    "stored": payloads.stored,
    "coded": payloads.coded,
    "paired": paired.paired_calls,
    "journal": journal.rows,
    "appends": logs.appends,
    "history": logs.history,
}
_WITHOUT_SERVERS = ("stored", "coded", "paired", "journal", "appends", "history")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks")
    parser.add_argument("--rounds", type=int, default=5, help="how many are counted")
    parser.add_argument("--quick", action="store_true", help="smaller sizes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the run here too")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="and a picture of it, as SVG")
    parser.add_argument("--only", action="append", choices=MEASURES, help="just this measure")
    parser.add_argument("--store", action="append", choices=OURS, help="what keeps the log")
    parser.add_argument("--loop", action="append", type=Loop, choices=list(Loop))
    parser.add_argument(
        "--competitor", metavar="PYTHON", help="an interpreter that has mcp-persist[sqlite,redis]"
    )
    for name in ("postgres", "redis"):
        parser.add_argument(
            f"--{name}-ms", type=float, default=0.0, help="how far away it is, there and back"
        )
    parser.add_argument("--dir", type=Path, help="where databases go (default: temporary)")
    arguments = parser.parse_args()
    has_uvloop = importlib.util.find_spec("uvloop") and importlib.util.find_spec("httptools")
    if arguments.loop is None:
        arguments.loop = list(Loop) if has_uvloop else [Loop.ASYNCIO]
        if not has_uvloop:
            print('without uvloop, which `pip install -e ".[bench]"` brings', file=sys.stderr)
    elif Loop.UVLOOP in arguments.loop and not has_uvloop:
        parser.error('uvloop is missing: pip install -e ".[bench]"')
    return arguments


async def _run(
    arguments: argparse.Namespace,
    loop: Loop,
    directory: Path,
    fixture: Fixture,
    taken: list[report.Taken],
) -> None:
    contenders = [OURS[name] for name in arguments.store or USUAL]
    if arguments.competitor:
        contenders += PEERS
    servers = Servers(directory, fixture, loop, arguments.competitor)
    plan = Plan(servers, contenders, arguments.rounds, arguments.quick)
    try:
        for name in arguments.only or MEASURES:
            # What runs in no server knows no loop of one.
            if name in _WITHOUT_SERVERS and loop is not arguments.loop[0]:
                continue
            begin, what = time.monotonic(), "s"
            try:
                taken += await MEASURES[name](plan)
            except (BenchmarkError, OSError, TimeoutError) as error:
                what = f"s, and nothing to show: {type(error).__name__}: {error}"
            took = time.monotonic() - begin
            print(f"{loop}, {name}: {took:.1f} {what}", file=sys.stderr, flush=True)
    finally:
        await servers.aclose()


def _show(arguments: argparse.Namespace, about: dict[str, Any], rows: Sequence[report.Row]) -> None:
    print(" · ".join(f"{name} {value}" for name, value in about.items()), end="\n\n")
    print(report.table(rows), report.verdict(rows), sep="\n\n")
    if arguments.json:
        arguments.json.write_text(report.document(rows, about) + "\n")
    if arguments.picture and rows:
        arguments.picture.write_text(picture.drawn(rows))


def main() -> None:
    """Measure and report; a run that is interrupted shows what it has."""
    arguments = _arguments()
    away = {"postgres": arguments.postgres_ms, "redis": arguments.redis_ms}
    with tempfile.TemporaryDirectory(
        dir=arguments.dir, prefix="benchmark-", ignore_cleanup_errors=True
    ) as directory:
        about = report.machine(Path(directory)) | {f"{k}_ms": v for k, v in away.items() if v}
        taken: dict[Loop, list[report.Taken]] = {loop: [] for loop in arguments.loop}
        try:
            with fixtures(away) as fixture:
                for loop, here in taken.items():
                    asyncio.run(_run(arguments, loop, Path(directory), fixture, here))
        finally:
            judged = [report.judged(f"{loop}, {loop.parser}", here) for loop, here in taken.items()]
            _show(arguments, about, [row for rows in judged for row in rows])


if __name__ == "__main__":
    main()
