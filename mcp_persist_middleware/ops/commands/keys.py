"""`keys`: what the store is encrypted with, and a change of that."""

import dataclasses
from collections import Counter

import typer

from mcp_persist_middleware.errors import ConfigurationError
from mcp_persist_middleware.ops import command, key_use, progress, stores
from mcp_persist_middleware.ops.output import Column, Output, number
from mcp_persist_middleware.ops.rotation import Rotation
from mcp_persist_middleware.ops.store_options import StoreOptions

_KEYS = (
    Column("key", "KEY", lambda name: name or "(none)"),
    Column("events", "EVENTS", number, right=True),
    Column("other", "OTHER", number, right=True),
    Column("state", "STATE"),
)
_FACTS = (
    Column("events", "Events written anew", number),
    Column("sessions", "Sessions", number),
    Column("requests", "Kept requests", number),
    Column("journal", "Rows of the journal", number),
    Column("jobs", "Jobs", number),
    Column("unreadable", "Left: cannot be read", number),
)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    keys = typer.Typer(no_args_is_help=True, help="Check and rotate the keys of the payloads.")
    command.add(keys, check, "check")
    command.add(keys, rotate, "rotate")
    app.add_typer(keys, name="keys", rich_help_panel=command.CHANGE)


async def check(store: StoreOptions, out: Output) -> bool:
    """Count the events by the key that they are encrypted with. Every event is looked at.

    OTHER is what sessions, tasks, kept requests and the journal have of what clients said. Exit
    code 1 when anything has another key than the current one.
    """
    settings = store.settings()
    ring, found, other = settings.encryption_keys, Counter[str](), Counter[str]()
    async with stores.inspected(settings) as inspection:
        with progress.bar("events", hidden=out.as_json) as report:
            async for page in key_use.pages(inspection):
                found.update(key_use.key_of(head.codec, head.begins) for head in page)
                report(found.total())
        async for blobs in inspection.blob_heads():
            other.update(map(key_use.key_of_blob, blobs))
    current = ring.current if ring is not None else key_use.NO_KEY
    rows = []
    for name in sorted({*found, *other}):
        is_here = name == key_use.NO_KEY or (ring is not None and name in ring)
        state = "current" if name == current else "old" if is_here else "missing"
        counts = {"events": found[name], "other": other[name]}
        rows.append({"key": name, **counts, "state": state})
    out.table(_KEYS, rows, "There is nothing that could be encrypted.")
    return any(row["state"] != "current" for row in rows)


async def rotate(store: StoreOptions, out: Output) -> bool:
    """Write everything anew that is not under the current key, in batches beside running servers.

    First give every worker the new key in front of the old one. What is interrupted goes on where
    it was when it is run again. Exit code 1 when something could not be read.
    """
    settings = store.settings()
    if settings.encryption_keys is None:
        raise ConfigurationError(reason=_NO_KEY)
    async with stores.opened_sql(settings) as log, log.inspection() as inspection:
        with progress.bar("events", hidden=out.as_json) as report:
            done = await Rotation(log, inspection, settings).run(report)
    out.facts(_FACTS, dataclasses.asdict(done))
    return bool(done.unreadable)


_NO_KEY = (
    "there are no encryption_keys; set MCP_PERSIST_ENCRYPTION_KEYS (or name the application with "
    "--app), the new key first and the old ones behind it"
)
