"""`top`: what the workers on a store do, drawn again and again."""

import asyncio
import json
import time
import urllib.error
import urllib.request
from typing import Annotated, Any

import typer
from rich.console import Group
from rich.live import Live
from rich.text import Text

from mcp_persist_middleware.ops import command, stores
from mcp_persist_middleware.ops.following import Follower
from mcp_persist_middleware.ops.options import duration
from mcp_persist_middleware.ops.output import Column, Output, number, table_of
from mcp_persist_middleware.ops.records import worker_row, worker_state
from mcp_persist_middleware.ops.store_options import StoreOptions
from mcp_persist_middleware.settings import Settings
from mcp_persist_middleware.stores.sql.inspected import Wanted
from mcp_persist_middleware.stores.sql.inspection import Inspection

_HEALTH_SECONDS, _MOST_BYTES = 2.0, 65_536
_WORKERS = (
    Column("worker", "WORKER"),
    Column("state", "STATE"),
    Column("running", "RUNNING", number, right=True),
    Column("readers", "READ ELSEWHERE", number, right=True),
    Column("sessions", "SESSIONS", number, right=True),
    Column("rate", "EVENTS/S", lambda value: f"{value:,.1f}", right=True),
)


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:,.0f} ms"


_PAGES = (
    Column("page", "HEALTH PAGE"),
    Column("status", "STATUS"),
    Column("queued_events", "QUEUED", number, right=True),
    Column("commit_lag", "COMMIT LAG", _milliseconds, right=True),
    Column("redis_backlog", "BACKLOG", number, right=True),
    Column("degraded_streams", "DEGRADED", number, right=True),
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    command.add(app, top, "top", command.LOOK)


async def top(
    store: StoreOptions,
    out: Output,
    interval: Annotated[float, duration("Between two looks.")] = 2.0,
    seconds: Annotated[float | None, duration("Stop after this time.")] = None,
    health: Annotated[
        list[str] | None,
        typer.Option(metavar="URL", help="The health page of a worker; may be given repeatedly."),
    ] = None,
) -> None:
    """Show what each worker does: running streams, readers elsewhere, sessions, events a second.

    What a worker alone knows (its queue, its commits, what Redis holds back) is on its health page.
    """
    settings = store.settings()
    until = time.monotonic() + (seconds if seconds is not None else float("inf"))
    async with stores.inspected(settings) as inspection:
        looker = _Looker(inspection, settings, health or [])
        await looker.begin()
        with Live(console=out.console, auto_refresh=False, transient=True) as live:
            while True:
                await asyncio.sleep(min(interval, max(0.0, until - time.monotonic())))
                seen = await looker.look()
                if out.as_json:
                    out.json_line(seen)
                elif live.console.is_terminal:
                    live.update(_drawn(seen), refresh=True)
                else:
                    out.console.print(_drawn(seen))
                if time.monotonic() >= until:
                    break
    if not out.as_json and out.console.is_terminal:
        out.console.print(_drawn(seen))


def _drawn(seen: dict[str, Any]) -> Group:
    relayed = seen["relayed"]
    parts: list[Any] = [table_of(_WORKERS, seen["workers"])]
    parts.append(Text(f"\nRelayed requests that wait: {number(relayed)}"))
    if seen["pages"]:
        parts += [Text(""), table_of(_PAGES, seen["pages"])]
    return Group(*parts)


class _Looker:
    """Looks again and again."""

    def __init__(self, inspection: Inspection, settings: Settings, pages: list[str]) -> None:
        self._inspection = inspection
        self._lease = settings.lease_seconds
        self._pages = pages
        self._follower = Follower(inspection, Wanted())
        self._looked = 0.0

    async def begin(self) -> None:
        """From here on events count."""
        await self._follower.latest(0)
        self._looked = time.monotonic()

    async def look(self) -> dict[str, Any]:
        """All that is to be seen now."""
        now, counts = await self._inspection.now(), await self._follower.count()
        looked, self._looked = self._looked, time.monotonic()
        rows = []
        for each in await self._inspection.workers(now):
            row = worker_row(each, worker_state(each, self._inspection, self._lease, now), now)
            rate = counts.pop(each.id, 0) / max(0.001, self._looked - looked)
            rows.append(row | {"rate": round(rate, 1)})
        pages = [asyncio.to_thread(_page, url) for url in self._pages]
        return {
            "workers": rows,
            "relayed": await self._inspection.waiting_requests(),
            "pages": await asyncio.gather(*pages),
        }


def _page(url: str) -> dict[str, Any]:
    """What a worker says of itself; why it says nothing where it does not."""
    told: dict[str, Any] = dict.fromkeys((column.key for column in _PAGES), None)
    told["page"] = url
    if not url.startswith(("http://", "https://")):
        return told | {"status": "no http URL"}
    try:
        with urllib.request.urlopen(url, timeout=_HEALTH_SECONDS) as answer:  # noqa: S310
            found = json.loads(answer.read(_MOST_BYTES))
    except urllib.error.HTTPError as error:
        found = {"status": f"HTTP {error.code}"}
    except (OSError, ValueError) as error:
        found = {"status": type(error).__name__}
    return told | {key: found.get(key) for key in told if key != "page"}
