"""`bench`: how fast is this store, with these settings, on this machine?"""

import asyncio
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from mcp_persist_middleware.errors import ConfigurationError, StoreError
from mcp_persist_middleware.log.base import EventLog
from mcp_persist_middleware.ops import command, progress, stores
from mcp_persist_middleware.ops.bench import Measure, measures, picture
from mcp_persist_middleware.ops.bench.opened import opened, somewhere
from mcp_persist_middleware.ops.options import duration
from mcp_persist_middleware.ops.output import Column, Output, number
from mcp_persist_middleware.ops.store_options import StoreOptions
from mcp_persist_middleware.settings import Settings

# How long all of it may take beyond what each measure is told.
_MOST_PARTS, _BESIDE = 10, 120.0
_MOST_SECONDS = 60.0
_COLUMNS = (
    Column("measure", "MEASURE"),
    Column("rate", "A SECOND", number, right=True),
    Column("of", "OF"),
    Column("p50_ms", "P50 MS", "{:.2f}".format, right=True),
    Column("p99_ms", "P99 MS", "{:.2f}".format, right=True),
)
_Seconds = Annotated[float, duration("How long each of the eight parts takes.")]
_Bytes = Annotated[
    int, typer.Option("--bytes", min=16, max=1024 * 1024, help="Of an event that is appended.")
]
_Only = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="append, replay, lag or call; may be repeated."),
]
_Plot = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Write a picture of it too, as SVG.")
]


def register(app: typer.Typer) -> None:
    """Add the command."""
    command.add(app, bench, "bench", command.CHANGE)


async def bench(
    store: StoreOptions,
    out: Output,
    seconds: _Seconds = 1.0,
    size: _Bytes = 300,
    only: _Only = None,
    plot: _Plot = None,
) -> None:
    """Measure this store with these settings on this machine.

    Appends, replay, how late events are (here and on another worker), and a call with and without
    the middleware: all in this process, so that no network and no SDK is in it. It writes into a
    namespace of its own and erases that in the end, and loads the store meanwhile. Where a SQLite
    file is not there yet, another is made beside it and removed.
    """
    names = only or list(measures.ALL)
    if strange := [name for name in names if name not in measures.ALL]:
        known = ", ".join(measures.ALL)
        raise ConfigurationError(reason=f"--only is {strange[0]!r}: expected one of {known}")
    if not 0 < seconds <= _MOST_SECONDS:
        raise ConfigurationError(reason=f"--seconds is {seconds:g}: expected 0.1 to 60")
    with somewhere(store.settings()) as settings:
        if settings == store.settings() and settings.url is not None:
            async with stores.inspected(settings):
                pass
        about, found = await _measured(settings, names, seconds, size, hidden=out.as_json)
    if plot is not None:
        _write(plot, picture.svg(found, about["store"]))
    rows = [each.as_json() for each in found]
    if out.as_json:
        out.json(about | {"measures": rows})
        return
    for name, value in about.items():
        out.say(f"{name}: {value}")
    out.say("")
    out.table(_COLUMNS, rows, "Nothing was measured.")
    out.say("")
    for line in picture.text(found):
        out.line(line)


async def _measured(
    settings: Settings, names: Sequence[str], seconds: float, size: int, *, hidden: bool
) -> tuple[dict[str, str], list[Measure]]:
    found: list[Measure] = []
    most = _MOST_PARTS * seconds + _BESIDE
    async with opened(settings) as target:
        log, name = target.context.log, ""
        about = _about(log, settings, size)
        with progress.bar("measuring", len(names), hidden=hidden) as done:
            try:
                async with asyncio.timeout(most):
                    for count, name in enumerate(names, 1):
                        take = measures.ALL[name](target, seconds, size)
                        found += [measure async for measure in take]
                        done(count)
            except (TimeoutError, RuntimeError, ExceptionGroup) as error:
                why = f"the measure {name!r} has not come to its end: {_first(error)}"
                raise StoreError(url=log.name, reason=why) from error
    return about, found


def _first(error: Exception) -> str:
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return str(error) or type(error).__name__


def _about(log: EventLog, settings: Settings, size: int) -> dict[str, str]:
    """What was measured, and where."""
    codecs = [settings.compression, "encryption" if settings.encryption_keys else None]
    return {
        "store": log.name,
        "durability": log.durability,
        "events": f"{size} bytes of text, {' and '.join(filter(None, codecs)) or 'as they are'}",
        "machine": f"{os.cpu_count()} processors, {platform.system()} {platform.machine()}, "
        f"Python {platform.python_version()}",
    }


def _write(file: Path, text: str) -> None:
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise ConfigurationError(reason=f"--plot {file} cannot be written ({why})") from error
