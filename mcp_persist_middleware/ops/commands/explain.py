"""`explain`: what a code of an error or of a log line means."""

from typing import Annotated

import typer

from mcp_persist_middleware.ops import command
from mcp_persist_middleware.ops.codes import CODES
from mcp_persist_middleware.ops.output import Column, Output
from mcp_persist_middleware.ops.store_options import StoreOptions

_FACTS = (Column("code", "Code"), Column("cause", "Cause"), Column("fix", "What to do"))


def register(app: typer.Typer) -> None:
    """Add the command."""
    command.add(app, explain, "explain", command.LOOK)


def explain(
    _: StoreOptions, out: Output, code: Annotated[str, typer.Argument(help="As MPM-STORE-01.")]
) -> None:
    """Say what a code means that an error or a log line begins with."""
    found = CODES.get(code.strip(" :[]").upper())
    if found is None:
        raise typer.BadParameter(f"no error or log line of this version has the code {code!r}")
    out.facts(_FACTS, found._asdict())
