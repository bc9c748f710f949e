"""`export` and `import`: sessions, streams and jobs as lines of JSON."""

import contextlib
import dataclasses
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, BinaryIO, cast

import typer

from mcp_persist_middleware.ops import command, progress
from mcp_persist_middleware.ops.copy.rows import Selection
from mcp_persist_middleware.ops.options import Namespace
from mcp_persist_middleware.ops.output import Output, number
from mcp_persist_middleware.ops.records import stream_id
from mcp_persist_middleware.ops.store_options import StoreOptions
from mcp_persist_middleware.ops.transfer import export, import_

_NO_FILE = "-"
_FILE = "A file; - is standard {}."


def register(app: typer.Typer) -> None:
    """Add the commands."""
    command.add(app, write, "export", command.CHANGE)
    command.add(app, read, "import", command.CHANGE)


async def write(
    store: StoreOptions,
    out: Output,
    file: Annotated[str, typer.Argument(metavar="FILE", help=_FILE.format("output"))] = _NO_FILE,
    namespace: Namespace = None,
    session: Annotated[
        str | None, typer.Option(metavar="ID", help="This session and its streams alone.")
    ] = None,
    stream: Annotated[str | None, typer.Option(metavar="ID", help="This stream alone.")] = None,
) -> bool:
    """Write a session, a stream, a namespace or everything as lines of JSON.

    Tasks come with their streams; the journal is not in it. Lines are in the
    clear, whatever is encrypted in the store; a file is its owner's alone.
    """
    only = Selection(namespace, session, None if stream is None else stream_id(stream))
    with progress.shown() as report, _written(file) as made:
        done = await export(store.settings(), made.write, only=only, report=report)
    if file != _NO_FILE:
        if out.as_json:
            out.json(dataclasses.asdict(done))
        out.say(
            f"Exported {number(done.sessions)} sessions, {number(done.streams)} streams, "
            f"{number(done.events)} events and {number(done.jobs)} tasks to {file}."
        )
        if done.unreadable:
            out.say(f"{number(done.unreadable)} payloads cannot be read here, and are left out.")
    return done.unreadable > 0


async def read(
    store: StoreOptions,
    out: Output,
    file: Annotated[str, typer.Argument(metavar="FILE", help=_FILE.format("input"))] = _NO_FILE,
    renew: Annotated[
        bool, typer.Option("--renew", help="Under new ids, beside what is there.")
    ] = False,
) -> None:
    """Bring what `export` has written into a store; servers may be on it.

    What is there already stays as it is: to import the same file again does
    nothing.
    """
    with progress.shown() as report, _given(file) as lines:
        done = await import_(lines, store.settings(), renew=renew, report=report)
    if out.as_json:
        out.json(dataclasses.asdict(done))
    out.say(
        f"Imported {number(done.sessions)} sessions, {number(done.streams)} streams, "
        f"{number(done.events)} events and {number(done.jobs)} tasks; {number(done.skipped)} "
        "were there already."
    )


@contextmanager
def _written(name: str) -> Iterator[BinaryIO]:
    """A new file that only its owner may read, or standard output."""
    if name == _NO_FILE:
        yield sys.stdout.buffer
        sys.stdout.flush()
        return
    try:
        number_ = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        command.cannot_run(f"MPM-COPY-03: The file {name} cannot be written: {error.strerror}")
    try:
        with cast("BinaryIO", io.BufferedWriter(io.FileIO(number_, "wb"))) as made:
            yield made
    except BaseException as error:
        # Half of an export is none.
        Path(name).unlink(missing_ok=True)
        if isinstance(error, OSError):
            command.cannot_run(f"MPM-COPY-03: The file {name} cannot be written: {error.strerror}")
        raise


@contextmanager
def _given(name: str) -> Iterator[BinaryIO]:
    with contextlib.ExitStack() as stack:
        try:
            given = sys.stdin.buffer if name == _NO_FILE else stack.enter_context(_opened(name))
        except OSError as error:
            command.cannot_run(f"MPM-COPY-03: The file {name} cannot be read: {error.strerror}")
        yield given


def _opened(name: str) -> BinaryIO:
    return Path(name).open("rb")
