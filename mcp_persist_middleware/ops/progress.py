"""How far long work is: a bar on a terminal, elsewhere a line for each part of it."""

import contextlib
import sys
from collections.abc import Iterator
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from mcp_persist_middleware.ops.copy.copying import Progress as Done
from mcp_persist_middleware.ops.copy.copying import Report
from mcp_persist_middleware.ops.output import number


@contextlib.contextmanager
def shown() -> Iterator[Report]:
    """Shows what it is told, on standard error."""
    doing = ""
    with _bar() as made:
        task = made.add_task("", total=None)

        def report(done: Done) -> None:
            nonlocal doing
            if made.disable and done.doing != doing:
                print(done.doing, file=sys.stderr, flush=True)
            doing = done.doing
            counts = f"{number(done.streams)} streams, {number(done.events)} events"
            made.update(
                task,
                description=f"{done.doing}: {counts}",
                total=done.total,
                completed=done.streams if done.total is not None else None,
            )

        yield report


class Bar(Protocol):
    """Is told how much is done, and of how much where that is known now."""

    def __call__(self, done: float, of: float | None = None) -> None: ...


@contextlib.contextmanager
def bar(what: str, total: float | None = None, *, hidden: bool = False) -> Iterator[Bar]:
    """Shows how much of one thing is done, to a person at a terminal."""
    with _bar(hidden=hidden) as made:
        task = made.add_task(what, total=total)

        def update(done: float, of: float | None = None) -> None:
            made.update(task, completed=done, total=total if of is None else of)

        yield update


def _bar(*, hidden: bool = False) -> Progress:
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    return Progress(
        *columns, console=console, transient=True, disable=hidden or not console.is_terminal
    )
