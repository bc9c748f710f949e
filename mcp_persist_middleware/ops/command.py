"""What makes a function a command: the options that all share, and what its end means.

A command is a function of a `StoreOptions`, an `Output` and options of its own, async or not; one
that names its stores itself takes no `StoreOptions`. It returns whether it found something (exit
code 1). What it cannot do it raises as `PersistError` (exit code 2).
"""

import asyncio
import contextlib
import dataclasses
import functools
import inspect
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, NoReturn

import typer

from mcp_persist_middleware.errors import PersistError
from mcp_persist_middleware.ops.output import Output
from mcp_persist_middleware.ops.store_options import StoreOptions

LOOK, CHANGE, SERVE = "Look", "Change", "Serve"
"""Where a command stands in the list of all."""
FOUND, CANNOT = 1, 2
"""Exit codes."""
_INTERRUPTED = 130

_JSON = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_OPTIONS = {
    field.name: inspect.Parameter(
        field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=field.type
    )
    for field in dataclasses.fields(StoreOptions)
}
_OPTIONS["as_json"] = inspect.Parameter(
    "as_json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=_JSON
)


def add(
    app: typer.Typer,
    function: Callable[..., Any],
    name: str,
    panel: str | None = None,
    *,
    said: str | None = None,
    names_stores: bool = False,
) -> None:
    """Make a function a command of an application.

    Args:
        said: its help, if not its docstring.
        names_stores: it takes stores as arguments of its own, and no `StoreOptions`.
    """
    shared = {"as_json": _OPTIONS["as_json"]} if names_stores else _OPTIONS
    app.command(name, help=said, rich_help_panel=panel)(_command(function, shared))


def cannot_run(reason: str) -> NoReturn:
    """End with one sentence."""
    typer.echo(reason, err=True)
    raise typer.Exit(CANNOT)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What the library would tell a server's log is no part of an answer."""
    log = logging.getLogger("mcp_persist_middleware")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(level)


def _command(
    function: Callable[..., Any], options: Mapping[str, inspect.Parameter]
) -> Callable[..., None]:
    takes_store = len(options) > 1

    @functools.wraps(function)
    def run(**given: Any) -> None:
        shared = {name: given.pop(name) for name in options}
        out = Output(as_json=shared.pop("as_json"))
        first = (StoreOptions(**shared), out) if takes_store else (out,)
        try:
            with _quiet():
                found = function(*first, **given)
                if inspect.iscoroutine(found):
                    found = asyncio.run(found)
        except PersistError as error:
            cannot_run(str(error))
        except KeyboardInterrupt:
            raise typer.Exit(_INTERRUPTED) from None
        except BrokenPipeError:
            # Who reads has had enough; the interpreter is not to complain when it ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit from None
        raise typer.Exit(FOUND if found else 0)

    own = list(inspect.signature(function).parameters.values())[2 if takes_store else 1 :]
    # What typer reads: the function's own options, then the shared ones.
    read = [*own, *options.values()]
    run.__dict__["__signature__"] = inspect.Signature(read)
    run.__annotations__ = {each.name: each.annotation for each in read}
    return run
