"""`doctor`: is everything as it should be?"""

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from mcp_persist_middleware.errors import PersistError
from mcp_persist_middleware.ops import command, stores
from mcp_persist_middleware.ops import doctor as checks
from mcp_persist_middleware.ops.doctor import (
    Finding,
    Level,
    Patient,
    installed,
    keys,
    redis,
    served,
)
from mcp_persist_middleware.ops.doctor import store as tables
from mcp_persist_middleware.ops.output import Output
from mcp_persist_middleware.ops.store_options import StoreOptions
from mcp_persist_middleware.settings import Settings

_CHECKS = tables.CHECKS | keys.CHECKS | redis.CHECKS | installed.CHECKS
_SERVER = "Server"
_COLOURS = {Level.OK: "green", Level.WARNING: "yellow", Level.FAILURE: "red", Level.SKIPPED: "dim"}


def register(app: typer.Typer) -> None:
    """Add the command."""
    command.add(app, doctor, "doctor", command.LOOK)


_Upstream = Annotated[
    list[str] | None,
    typer.Option(
        metavar="URL",
        help="A server's MCP endpoint: it is examined as a client sees it. May be repeated.",
        rich_help_panel=_SERVER,
    ),
]
_Path = Annotated[
    str,
    typer.Option(metavar="PATH", help="Where --app has its endpoint.", rich_help_panel=_SERVER),
]
_HeaderFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Headers of each question, 'Name: value': a credential, for one.",
        rich_help_panel=_SERVER,
    ),
]
_Origin = Annotated[
    str | None,
    typer.Option(
        metavar="ORIGIN",
        help="Pages that are to speak to it, such as https://app.example.",
        rich_help_panel=_SERVER,
    ),
]


async def doctor(
    store: StoreOptions,
    out: Output,
    upstream: _Upstream = None,
    path: _Path = "/mcp",
    header_file: _HeaderFile = None,
    origin: _Origin = None,
) -> bool:
    """Check a store and what serves on it, line by line, and say what to do.

    Nothing is changed: no table is made or upgraded, no server disturbed. With --app the
    application is started here without its store, with --upstream a server elsewhere is asked; no
    tool is called. Exit code 1 when there is something to do.
    """
    look = served.Look(upstream or (), path, header_file, origin)
    look.check()
    findings: list[Finding] = []
    if not (upstream and _names_no_store(store)):
        settings = store.settings()
        findings += await _examined(settings)
        if store.app is not None:
            findings += await look.at_application(store.app, settings)
    findings += await look.at_upstreams()
    trouble = [finding for finding in findings if finding.is_trouble]
    if out.as_json:
        out.json([each.as_json() for each in findings])
    else:
        _print(out, findings, trouble)
    return bool(trouble)


def _names_no_store(store: StoreOptions) -> bool:
    named = (store.url, store.app, os.environ.get("MCP_PERSIST_URL"))
    return not any(named)


async def _examined(settings: Settings) -> list[Finding]:
    try:
        async with stores.inspected(settings, any_schema=True) as inspection:
            patient = Patient(settings, inspection)
            said = f"{inspection.name} ({await inspection.engine_version()})"
            found = [Finding("store", Level.OK, said)]
            for name, check in _CHECKS.items():
                found += await checks.examine(patient, name, check)
                if name == "schema" and found[-1].is_trouble:
                    # Nothing is known of other tables.
                    break
    except PersistError as error:
        return [Finding("store", Level.FAILURE, str(error))]
    return found


def _print(out: Output, findings: list[Finding], trouble: list[Finding]) -> None:
    table = Table.grid(padding=(0, 2))
    for each in findings:
        table.add_row(each.name, Text(each.level, _COLOURS[each.level]), Text(each.said))
    out.console.print(table)
    out.say("")
    fixes = [f"{each.name}: {(each.fix or each.said).rstrip('.')}." for each in trouble]
    out.say("\n".join(["To do:", *(f"- {fix}" for fix in fixes)]) if fixes else "Nothing to do.")
