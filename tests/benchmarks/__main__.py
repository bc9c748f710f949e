"""`python -m tests.benchmarks`: run the measures, print the table, write the JSON."""

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path

from tests.benchmarks.calls import single_calls
from tests.benchmarks.logs import appends, history
from tests.benchmarks.memory import idle_streams
from tests.benchmarks.relay import relayed_calls
from tests.benchmarks.report import Row, document, machine, table
from tests.benchmarks.rounds import Measure, Plan
from tests.benchmarks.servers import Variant, Where
from tests.benchmarks.streams import one_stream, raw_streams, single_events, sixteen_streams
from tests.benchmarks.tail import live_tail
from tests.support.started import fixtures
from tests.support.stores import STORES, Fixture

MEASURES: dict[str, Measure] = {
    "latency": single_events,
    "one": one_stream,
    "sixteen": sixteen_streams,
    "raw": raw_streams,
    "call": single_calls,
    "tail": live_tail,
    "relay": relayed_calls,
    "appends": appends,
    "memory": idle_streams,
    "history": history,
}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks")
    parser.add_argument("--quick", action="store_true", help="3 rounds and smaller sizes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the run here too")
    parser.add_argument("--only", action="append", choices=MEASURES, help="just this measure")
    parser.add_argument("--peer", metavar="PYTHON", help="an interpreter that has mcp-persist")
    parser.add_argument("--dir", type=Path, help="where databases go (default: temporary)")
    parser.add_argument("--store", choices=STORES, default="sqlite", help="what keeps the log")
    parser.add_argument("--synchronous", action="append", choices=["normal", "full"])
    return parser.parse_args()


async def _run(arguments: argparse.Namespace, directory: Path, fixture: Fixture) -> list[Row]:
    kinds = ["normal", "full"] if arguments.store.startswith("sqlite") else ["normal"]
    chosen = arguments.synchronous or kinds
    variants = [Variant.BARE, *map(Variant, chosen)]
    if arguments.peer:
        variants.append(Variant.PEER)
    where = Where(directory, arguments.peer, arguments.store, fixture)
    plan = Plan(where, arguments.quick, variants)
    rows = []
    for name in arguments.only or MEASURES:
        begin = time.monotonic()
        rows += await MEASURES[name](plan)
        print(f"{name}: {time.monotonic() - begin:.1f} s", file=sys.stderr, flush=True)
    return rows


def main() -> None:
    """Measure and report."""
    arguments = _arguments()
    with tempfile.TemporaryDirectory(dir=arguments.dir, prefix="benchmark-") as directory:
        about = machine(Path(directory))
        with fixtures() as fixture:
            rows = asyncio.run(_run(arguments, Path(directory), fixture))
    print(" · ".join(f"{name} {value}" for name, value in about.items()))
    print(table(rows))
    if arguments.json:
        arguments.json.write_text(document(rows, about) + "\n")


if __name__ == "__main__":
    main()
