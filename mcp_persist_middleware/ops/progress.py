"""How far long work is: a bar on a terminal, elsewhere a line for each part of it."""

import contextlib
import sys
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from mcp_persist_middleware.ops.copy.copying import Progress as Done
from mcp_persist_middleware.ops.copy.copying import Report
from mcp_persist_middleware.ops.output import number


@contextlib.contextmanager
def shown() -> Iterator[Report]:
    """Shows what it is told, on standard error."""
    doing = ""
    with _bar() as bar:
        task = bar.add_task("", total=None)

        def report(done: Done) -> None:
            nonlocal doing
            if bar.disable and done.doing != doing:
                print(done.doing, file=sys.stderr, flush=True)
            doing = done.doing
            counts = f"{number(done.streams)} streams, {number(done.events)} events"
            bar.update(
                task,
                description=f"{done.doing}: {counts}",
                total=done.total,
                completed=done.streams if done.total is not None else None,
            )

        yield report


@contextlib.contextmanager
def pages() -> Iterator[Callable[[int, int], None]]:
    """Shows how much is done, and of how much."""
    with _bar() as bar:
        task = bar.add_task("backup", total=None)
        yield lambda done, of: bar.update(task, completed=done, total=of)


def _bar() -> Progress:
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
