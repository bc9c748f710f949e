"""`copy` and `migrate`: a store into another one."""

import asyncio
import dataclasses
from typing import Annotated, Any

import typer

from mcp_persist_middleware.errors import ConfigurationError
from mcp_persist_middleware.ops import command, progress
from mcp_persist_middleware.ops.applications import application, persistence_in
from mcp_persist_middleware.ops.copy import Comparison, Copied, copy
from mcp_persist_middleware.ops.output import Output, number, size
from mcp_persist_middleware.settings import Settings

_STORE = "A store's URL, or MODULE:APP: the settings of the middleware in it."
_SETTING = "A setting of {}, as compression=zstd or encryption_keys=file:keys; may be repeated."
_KINDS = "streams, sessions, tasks or rows of the journal"
_NAMES = {"job": "tasks", "journal": "rows of a journal"}
_From = Annotated[str, typer.Argument(metavar="FROM", help=_STORE)]
_To = Annotated[str, typer.Argument(metavar="TO", help="The same; an empty store.")]
_SettingsFrom = Annotated[
    list[str] | None,
    typer.Option("--set-from", metavar="NAME=VALUE", help=_SETTING.format("FROM")),
]
_SettingsTo = Annotated[
    list[str] | None,
    typer.Option("--set-to", metavar="NAME=VALUE", help=_SETTING.format("TO")),
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    command.add(app, run, "copy", command.CHANGE, names_stores=True)
    same = "The same as `copy`."
    command.add(app, run, "migrate", command.CHANGE, said=same, names_stores=True)


async def run(
    out: Output,
    source: _From,
    target: _To,
    follow: Annotated[
        bool, typer.Option("--follow", help="Go on until FROM has no server any more.")
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Compare the two in the end, event by event.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Count what there is; write nothing.")
    ] = False,
    set_from: _SettingsFrom = None,
    set_to: _SettingsTo = None,
) -> bool:
    """Copy a store into another one, with its ids, while a server is on it.

    Between SQLite and PostgreSQL, either way. Stopped at any moment it goes
    on there when it is run again. No server starts on TO before the copy is
    complete. Tasks and the journal come along.

    To move a server: copy with --follow; when it says "follow", stop the
    server on FROM; when it has ended, start the server on TO.

    Where a server is or was on TO already nothing is copied, and --verify
    compares.
    """
    stores = _settings(source, set_from), _settings(target, set_to)
    try:
        with progress.shown() as report:
            done = await copy(*stores, follow=follow, verify=verify, dry_run=dry_run, report=report)
    except asyncio.CancelledError:
        typer.echo("Stopped. The same command goes on from here.", err=True)
        raise
    if out.as_json:
        out.json(dataclasses.asdict(done))
    else:
        _say(out, done, dry_run=dry_run, follow=follow)
    is_whole = done.comparison is None or done.comparison.ok
    return not is_whole or done.unreadable > 0


def _settings(name: str, given: list[str] | None) -> Settings:
    """The settings of a store: of the application that is named, or of a URL with some more."""
    named: dict[str, Any] = {}
    for each in given or ():
        setting, equals, value = each.partition("=")
        if not equals:
            raise ConfigurationError(reason=f"{each!r} is no setting: expected NAME=VALUE")
        named[setting.replace("-", "_")] = value
    module, colon, attribute = name.partition(":")
    if colon and module.replace(".", "").isidentifier() and not attribute.startswith("/"):
        if named:
            raise ConfigurationError(reason=f"{name} has settings of its own; name its URL instead")
        return persistence_in(application(name)).settings
    return Settings.load({"url": name} | named)


def _say(out: Output, done: Copied, *, dry_run: bool, follow: bool) -> None:
    what = (
        f"{number(done.streams)} streams, {number(done.events)} events ({size(done.bytes)}), "
        f"{number(done.sessions)} sessions, {number(done.jobs)} tasks and "
        f"{number(done.journal)} rows of the journal"
    )
    if dry_run:
        out.say(f"There are {what} to copy. Nothing was written.")
        return
    if done.is_in_use:
        out.say("A server is or was on TO: nothing was copied.")
    else:
        again = " (what changed meanwhile counts again)" if follow else ""
        out.say(f"Copied {what} in {done.seconds:.1f} s{again}.")
        if done.unreadable:
            out.say(
                f"{number(done.unreadable)} payloads could not be read here (a key is missing, or "
                "they are damaged); they are in TO as they were in FROM."
            )
        for each in done.left_behind:
            out.say(f"TO keeps no {_NAMES[each]}: those of FROM stay behind.")
        out.say(
            "No server is on FROM any more: start it on TO."
            if follow
            else "TO is complete. What a server on FROM writes from now on another run brings."
        )
    if done.comparison is not None:
        _say_comparison(out, done.comparison)


def _say_comparison(out: Output, found: Comparison) -> None:
    out.say(
        f"Compared {number(found.streams)} streams, {number(found.events)} events, "
        f"{number(found.sessions)} sessions, {number(found.jobs)} tasks and "
        f"{number(found.journal)} rows of the journal of FROM."
    )
    first, second = found.checksums
    if first == second and found.ok and not (found.ahead or found.behind):
        out.say(f"They are the same. Checksum {first}.")
        return
    out.say(f"Checksums: FROM {first}, TO {second}.")
    for count, what in (
        (found.ahead, "streams or tasks have gone on in TO"),
        (found.behind, "streams or tasks have gone on in FROM"),
        (found.missing, f"{_KINDS} are missing in TO"),
        (found.different, f"{_KINDS} are different in TO"),
    ):
        if count:
            out.say(f"{number(count)} {what}.")
    for name in found.names:
        out.say(f"  {name}")
    if found.ok:
        out.say("TO has all that FROM has.")
