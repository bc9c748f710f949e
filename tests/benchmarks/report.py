"""The result of a run: rows, as a table and as JSON."""

import json
import os
import platform
import sqlite3
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any


@dataclass(frozen=True, slots=True)
class Row:
    """One measure of one variant against what it is compared with."""

    measure: str
    variant: str
    unit: str
    base: float
    """What it is compared with: the bare application, or the bare driver."""
    ours: float
    result: float
    """The ratio or difference that the target speaks of; the median over the rounds."""
    target: str
    met: bool | None
    """None where the target is not for this variant."""
    detail: dict[str, Any] = field(default_factory=dict)


def at_least(limit: float, unit: str = "") -> Callable[[float], tuple[str, bool]]:
    """A target that is met from `limit` upwards."""
    return lambda value: (f">= {limit:g}{unit}", value >= limit)


def at_most(limit: float, unit: str = "") -> Callable[[float], tuple[str, bool]]:
    """A target that is met up to `limit`."""
    return lambda value: (f"<= {limit:g}{unit}", value <= limit)


def ratio(ours: Sequence[float], base: Sequence[float]) -> float:
    """The median of the rounds' own ratios: what slowed a whole round cancels out."""
    return median(o / b for o, b in zip(ours, base, strict=True))


def difference(ours: Sequence[float], base: Sequence[float]) -> float:
    """The median of the rounds' own differences."""
    return median(o - b for o, b in zip(ours, base, strict=True))


def percentile(values: Iterable[float], fraction: float) -> float:
    """The value that `fraction` of all values do not exceed."""
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, int(fraction * len(ranked)))]


_COLUMNS = ("measure", "variant", "base", "ours", "unit", "result", "target", "")


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def table(rows: Sequence[Row]) -> str:
    """The rows as text."""
    marks = {True: "ok", False: "MISSED", None: ""}
    cells = [_COLUMNS]
    for r in rows:
        numbers = (_number(r.base), _number(r.ours), r.unit, _number(r.result))
        cells.append((r.measure, r.variant, *numbers, r.target, marks[r.met]))
    widths = [max(len(row[i]) for row in cells) for i in range(len(_COLUMNS))]
    right = (2, 3, 5)
    lines = [
        "  ".join(
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def machine(directory: Path) -> dict[str, Any]:
    """What the numbers depend on besides us."""
    return {
        "python": sys.version.split()[0],
        "sqlite": sqlite3.sqlite_version,
        "system": platform.platform(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
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
