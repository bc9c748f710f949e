"""The result of a run: what was taken, judged by the goals; as a table and as JSON."""

import json
import os
import platform
import sqlite3
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from tests.benchmarks.contenders import Contender, Role
from tests.benchmarks.goals import GOALS, By


@dataclass(frozen=True, slots=True)
class Taken:
    """What the rounds of one measure gave for one contender."""

    goal: str
    """Its key in `GOALS`."""
    contender: Contender
    rounds: list[float]
    base: list[float] = field(default_factory=list)
    """The same rounds of what it is compared with; none where a value stands for itself."""
    floor: float | None = None
    """What no commit on this machine can go below, where the goal is meant over that."""
    is_bare: bool = True
    """Whether the base is the bare application."""


@dataclass(frozen=True, slots=True)
class Row:
    """One measure of one contender, judged."""

    loop: str
    goal: str
    measure: str
    unit: str
    contender: str
    base: float | None
    value: float
    result: float
    """The ratio, the difference or the value that the target speaks of: the median over the
    rounds, so that what slowed a whole round cancels out."""
    target: str
    met: bool | None
    """None where the target is not for this contender."""
    rounds: list[float]
    base_rounds: list[float]
    is_bare: bool


def percentile(values: Iterable[float], fraction: float) -> float:
    """The value that `fraction` of all values do not exceed."""
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, int(fraction * len(ranked)))]


def _result(one: Taken) -> float:
    by = GOALS[one.goal].by
    if by is By.ITSELF:
        return median(one.rounds)
    pairs = zip(one.rounds, one.base, strict=True)
    return median(mine / base if by is By.SHARE else mine - base for mine, base in pairs)


def judged(loop: str, taken: Sequence[Taken]) -> list[Row]:
    """The rows of one loop."""
    peers: dict[str, float] = {}
    for one in taken:
        if one.contender.role is Role.PEER:
            peers[one.goal] = min(_result(one), peers.get(one.goal, float("inf")))
    rows = []
    for one in taken:
        goal, result = GOALS[one.goal], _result(one)
        rival = peers.get(one.goal) if goal.beats_peers else None
        target, met = goal.judge(one.contender.name, result, one.floor, rival)
        base = median(one.base) if one.base else None
        rows.append(
            Row(
                loop,
                one.goal,
                goal.title,
                goal.unit,
                one.contender.name,
                base,
                median(one.rounds),
                result,
                target,
                met,
                one.rounds,
                one.base,
                one.is_bare and bool(one.base),
            )
        )
    return rows


_MARKS = {True: " ✓", False: " ✗", None: ""}


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def shown(row: Row) -> str:
    """A result as people write it: a difference has a sign."""
    sign = "+" if GOALS[row.goal].by is By.ADDED and row.result > 0 else ""
    return sign + _number(row.result)


def table(rows: Sequence[Row]) -> str:
    """The rows as Markdown that reads well as text: a line for each measure, a column for each
    contender, a mark where there is a target for it."""
    names = list(dict.fromkeys(row.contender for row in rows))
    loops = list(dict.fromkeys(row.loop for row in rows))
    cells = [["measure", "unit", "bare", *names, "target"]]
    for loop in loops:
        cells.append([f"**{loop}**", *[""] * (len(names) + 3)])
        here = [row for row in rows if row.loop == loop]
        for goal in dict.fromkeys(row.goal for row in here):
            cells.append(_line([row for row in here if row.goal == goal], names))
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    padded = [
        "| "
        + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        + " |"
        for line in cells
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([padded[0], rule, *padded[1:]])


def _line(rows: Sequence[Row], names: Sequence[str]) -> list[str]:
    found = {row.contender: row for row in rows}
    first = rows[0]
    bare = _number(first.base) if first.is_bare and first.base is not None else ""
    results = [
        shown(found[name]) + _MARKS[found[name].met] if name in found else "" for name in names
    ]
    targets = dict.fromkeys(row.target for row in rows if row.target)
    return [first.measure, first.unit, bare, *results, "; ".join(targets)]


def verdict(rows: Sequence[Row]) -> str:
    """How many targets were met, and which were not."""
    judgements = [row for row in rows if row.met is not None]
    missed = [f"{row.loop}, {row.contender}: {row.measure}" for row in judgements if not row.met]
    met = f"{len(judgements) - len(missed)} of {len(judgements)} targets met"
    return "; not met:\n  ".join([met, "\n  ".join(missed)]) if missed else met


def machine(directory: Path) -> dict[str, Any]:
    """What the numbers depend on besides us."""
    return {
        "python": sys.version.split()[0],
        "sqlite": sqlite3.sqlite_version,
        "system": platform.platform(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "file_system": file_system(directory),
    }


def file_system(directory: Path) -> str:
    """The kind of file system a directory is on; `tmpfs` would flatter every commit."""
    if not Path("/proc/mounts").exists():
        return "unknown"
    mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    here = directory.resolve()
    found = [(len(point), kind) for point, kind in mounts if here.is_relative_to(point)]
    return max(found, default=(0, "unknown"))[1]


def document(rows: Sequence[Row], about: dict[str, Any]) -> str:
    """The run as JSON."""
    return json.dumps({"machine": about, "rows": [asdict(row) for row in rows]}, indent=1)
