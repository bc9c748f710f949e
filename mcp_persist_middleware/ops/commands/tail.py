"""`tail`: events as they come."""

import asyncio
import itertools
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any

import typer

from mcp_persist_middleware.ops import command, payloads, stores
from mcp_persist_middleware.ops.following import Follower, NewEvent
from mcp_persist_middleware.ops.options import Namespace, Payloads, Session, Since, duration
from mcp_persist_middleware.ops.output import Output, size
from mcp_persist_middleware.ops.records import event_row, stream_id
from mcp_persist_middleware.ops.store_options import StoreOptions
from mcp_persist_middleware.ops.tool_following import ToolFollower
from mcp_persist_middleware.protocol.event_id import name_of
from mcp_persist_middleware.settings import Settings
from mcp_persist_middleware.stores.sql.inspected import Wanted
from mcp_persist_middleware.stores.sql.inspection import Inspection

_PAUSE = 0.5


def register(app: typer.Typer) -> None:
    """Add the command."""
    command.add(app, tail, "tail", command.LOOK)


async def tail(
    store: StoreOptions,
    out: Output,
    follows: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with what comes, until interrupted.")
    ] = False,
    lines: Annotated[
        int, typer.Option("-n", "--lines", min=0, max=10_000, help="So many of the newest.")
    ] = 20,
    session: Session = None,
    stream: Annotated[str | None, typer.Option(metavar="ID", help="Of this stream alone.")] = None,
    namespace: Namespace = None,
    tool: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Of this tool's calls that have ended (journal=True)."),
    ] = None,
    since: Since = None,
    seconds: Annotated[float | None, duration("With -f: stop after this time.")] = None,
    shows_payloads: Payloads = False,
) -> None:
    """Show the newest events, without what they say.

    A Redis in front is some 50 ms ahead of what is shown.
    """
    if tool is not None and stream is not None:
        command.cannot_run("--tool and --stream are given together; keep one of them")
    settings = store.settings()
    async with stores.inspected(settings) as inspection:
        wanted = Wanted(
            id=None if stream is None else stream_id(stream),
            namespace=namespace,
            session=session,
            created_after=None if since is None else await inspection.now() - since,
        )
        follower: Follower | ToolFollower = Follower(inspection, wanted)
        if tool is not None:
            follower = ToolFollower(inspection, tool, wanted)
        teller = _Teller(inspection, settings if shows_payloads else None, out)
        await teller.tell(await follower.latest(lines), is_new=False)
        until = time.monotonic() + (seconds if seconds is not None else float("inf"))
        while follows and time.monotonic() < until:
            await teller.tell(await follower.look(), is_new=True)
            await asyncio.sleep(_PAUSE)


class _Teller:
    """Prints events as they are told: a line each."""

    def __init__(self, inspection: Inspection, settings: Settings | None, out: Output) -> None:
        self._inspection = inspection
        self._settings = settings
        self._out = out

    async def tell(self, events: Sequence[NewEvent], *, is_new: bool) -> None:
        """Print events; of new ones when they were seen, for nothing else is known of it."""
        seen = datetime.now().astimezone().isoformat("T", "milliseconds") if is_new else None
        for stream, some in itertools.groupby(events, lambda event: event.record.id):
            part = list(some)
            texts = await self._texts(stream, part)
            for record, head in part:
                row = {"seen": seen, "stream": name_of(stream), **event_row(head)}
                row |= {"session": record.owner.session, "namespace": record.owner.namespace}
                if self._settings is not None:
                    row["data"] = texts.get(head.sequence)
                self._print(row)

    async def _texts(self, stream: bytes, events: Sequence[NewEvent]) -> dict[int, str]:
        if self._settings is None:
            return {}
        wanted = [event.head.sequence for event in events]
        return dict(await payloads.of(self._inspection, self._settings, stream, wanted))

    def _print(self, row: dict[str, Any]) -> None:
        if self._out.as_json:
            self._out.json_line(row)
            return
        at = row["seen"][11:23] if row["seen"] else " " * 12
        told = f"{at} {row['stream']} {row['sequence']:>6} {row['kind']:8}"
        said = row["data"] if "data" in row else f"{size(row['bytes']):>10} {row['session'][:16]}"
        self._out.line(f"{told} {said}".rstrip())
