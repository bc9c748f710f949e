"""What a command prints: tables for people, in 80 columns, and JSON for programs."""

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

TableRow = Mapping[str, Any]
_WIDTH = 80


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    Args:
        key: of the rows, and of the objects in JSON.
        show: a value as a person reads it.
    """

    key: str
    title: str
    show: Callable[[Any], str] = str
    right: bool = False


class Output:
    """Prints the answer of one command."""

    def __init__(self, *, as_json: bool = False, console: Console | None = None) -> None:
        self.as_json = as_json
        self.console = console or _console()

    def table(self, columns: Sequence[Column], rows: Iterable[TableRow], nothing: str) -> None:
        """Rows with the same keys; as JSON, an array of objects.

        Args:
            nothing: said where there is no row.
        """
        rows = list(rows)
        if self.as_json:
            self.json(rows)
        elif rows:
            self.console.print(table_of(columns, rows))
        else:
            self.say(nothing)

    def facts(self, columns: Sequence[Column], facts: TableRow) -> None:
        """One thing, line by line; as JSON, an object."""
        if self.as_json:
            self.json(facts)
            return
        table = Table.grid(padding=(0, 2))
        for column in columns:
            table.add_row(column.title, Text(_shown(column, facts[column.key])))
        self.console.print(table)

    def say(self, text: str) -> None:
        """A sentence for people."""
        if not self.as_json:
            self.console.print(_printable(text), markup=False)

    def line(self, text: str) -> None:
        """A line for people, however long."""
        self.console.print(_printable(text), markup=False, soft_wrap=True)

    def json(self, value: object) -> None:
        """A value for programs, on its own."""
        print(json.dumps(value, indent=2, ensure_ascii=False))

    def json_line(self, value: object) -> None:
        """A value for programs, one of many: on a line, at once."""
        print(json.dumps(value, ensure_ascii=False), flush=True)


def table_of(columns: Sequence[Column], rows: Iterable[TableRow]) -> Table:
    """Rows as a table."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        justify: Literal["left", "right"] = "right" if column.right else "left"
        table.add_column(column.title, justify=justify, overflow="fold")
    for row in rows:
        table.add_row(*(Text(_shown(column, row[column.key])) for column in columns))
    return table


def _console() -> Console:
    # Where nobody says how wide it is there is nobody who looks, or a test.
    console = Console(highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _WIDTH
    return console


def _shown(column: Column, value: Any) -> str:
    return "-" if value is None else _printable(column.show(value))


def _printable(text: str) -> str:
    """A text that does nothing to a terminal: clients name sessions, and say what they like."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


def ago(seconds: float) -> str:
    """A duration as a person reads it: two of its units at most."""
    if seconds < 0:
        return "-" + ago(-seconds)
    if seconds < 10:
        return f"{seconds:.1f} s"
    for size, unit, smaller, below in _UNITS:
        if seconds >= size:
            whole, rest = divmod(int(seconds), size)
            return f"{whole} {unit}" + (f" {rest // smaller} {below}" if rest >= smaller else "")
    return f"{seconds:.0f} s"


_UNITS = ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s"))


def size(count: float) -> str:
    """A number of bytes as a person reads it."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def number(count: float) -> str:
    """A count as a person reads it."""
    return f"{count:,.0f}"


def moment(seconds: float | None) -> str | None:
    """A time as JSON and people take it."""
    return (
        None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat("T", "seconds")
    )
