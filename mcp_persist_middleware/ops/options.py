"""Options that several commands take."""

from typing import Annotated

import typer
from typer.models import OptionInfo

from mcp_persist_middleware.settings import units


def _duration(text: str) -> float:
    value = units.SECONDS.parse(str(text))
    if value is None or not value >= 0:
        raise typer.BadParameter(f"expected a time such as 90, 90s, 5m or 2h, not {text!r}")
    return value


def duration(meaning: str) -> OptionInfo:
    """A time, in seconds where it is read."""
    option: OptionInfo = typer.Option(parser=_duration, metavar="TIME", help=meaning)
    return option


Limit = Annotated[int, typer.Option(min=1, max=100_000, help="At most so many.")]
Namespace = Annotated[str | None, typer.Option(metavar="TEXT", help="Of this namespace alone.")]
Session = Annotated[str | None, typer.Option(metavar="ID", help="Of this session alone.")]
Since = Annotated[float | None, duration("Begun in this time before now, such as 10m.")]
Payloads = Annotated[
    bool, typer.Option("--payloads", help="Show what the events say: it may be confidential.")
]
