"""`journal`: exchanges that have ended."""

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from mcp_persist_middleware.log.codecs.chain import Chain
from mcp_persist_middleware.log.codecs.journal import decoded
from mcp_persist_middleware.log.codecs.parts import Blobs
from mcp_persist_middleware.log.journal import JournalEntry, Sought, earliest
from mcp_persist_middleware.model import ExchangeOutcome
from mcp_persist_middleware.ops import command, stores
from mcp_persist_middleware.ops.away import at_once
from mcp_persist_middleware.ops.options import Limit, Namespace, Session, duration
from mcp_persist_middleware.ops.output import Column, Output, ago, moment, number, size
from mcp_persist_middleware.ops.store_options import StoreOptions
from mcp_persist_middleware.protocol.event_id import name_of


def _brief(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else ago(seconds)


_COLUMNS = (
    Column("age", "ENDED", lambda seconds: f"{ago(seconds)} ago", right=True),
    Column("method", "METHOD", lambda method: method or "?"),
    Column("tool", "TOOL"),
    Column("outcome", "OUTCOME"),
    Column("first_event", "FIRST", _brief, right=True),
    Column("duration", "TOOK", _brief, right=True),
    Column("bytes", "SIZE", size, right=True),
    Column("resumes", "RESUMES", number, right=True),
)

_Tool = Annotated[str | None, typer.Option(metavar="NAME", help="Of this tool alone.")]
_Method = Annotated[str | None, typer.Option(metavar="NAME", help="Of this method alone.")]
_Outcome = Annotated[
    ExchangeOutcome | None, typer.Option(help="With this end alone.", show_choices=True)
]
_Since = Annotated[float | None, duration("Ended in this time before now, such as 10m.")]
_Slow = Annotated[float | None, duration("That took so long at least, such as 5s or 500ms.")]
_Params = Annotated[
    bool, typer.Option("--params", help="Show the parameters that journal_params keeps.")
]


def register(app: typer.Typer) -> None:
    """Add the command."""
    command.add(app, journal, "journal", command.LOOK)


async def journal(
    store: StoreOptions,
    out: Output,
    tool: _Tool = None,
    outcome: _Outcome = None,
    since: _Since = None,
    slow: _Slow = None,
    method: _Method = None,
    session: Session = None,
    namespace: Namespace = None,
    limit: Limit = 20,
    shows_params: _Params = False,
) -> None:
    """List exchanges that have ended, the newest first: what was called, how it ended, what it
    took.

    It is kept by servers with journal=True, for journal_ttl. FIRST is the time to the first event.
    """
    settings = store.settings()
    async with stores.inspected(settings) as inspection:
        now = await inspection.now()
        sought = Sought(
            tool=tool,
            outcome=None if outcome is None else str(outcome),
            method=method,
            session=session,
            namespace=namespace,
            slow=slow,
            after="" if since is None else earliest(now - since),
        )
        found = await inspection.journal(sought, limit)
        is_empty = not found and not await inspection.journal(Sought(), 1)
    rows = [_row(entry, now) for entry in found]
    columns: Sequence[Column] = _COLUMNS
    if shows_params:
        blobs = Blobs(Chain(settings), at_once)
        texts = [_params(entry, blobs) for entry in found]
        rows = [row | {"params": text} for row, text in zip(rows, texts, strict=True)]
        columns = (*_COLUMNS, Column("params", "PARAMS"))
    nothing = "The journal is empty: a server keeps it with journal=True."
    out.table(columns, rows, nothing if is_empty else "There is no such exchange.")


def _params(entry: JournalEntry, blobs: Blobs) -> str | None:
    """The parameters of one, or why they cannot be read."""
    try:
        return decoded(entry, blobs).params.decode() or None
    except ValueError as error:
        return f"(cannot be read: {error})"


def _row(entry: JournalEntry, now: float) -> dict[str, Any]:
    ended, owner = entry.began + entry.duration, entry.owner
    return {
        "method": entry.method,
        "tool": entry.tool or None,
        "version": entry.version or None,
        "outcome": entry.outcome,
        "error": entry.error or None,
        "began_at": moment(entry.began),
        "ended_at": moment(ended),
        "age": round(now - ended, 3),
        "first_event": entry.first_event,
        "duration": entry.duration,
        "bytes": entry.size,
        "resumes": entry.resumes,
        "stream": name_of(entry.stream) if entry.stream else None,
        "namespace": owner.namespace,
        "path": owner.path,
        "session": owner.session or None,
        "principal": owner.principal or None,
        "worker": entry.worker,
        "trace": entry.trace or None,
    }
