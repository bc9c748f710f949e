"""What `mcp-persist-middleware proxy` takes for servers that it starts itself: a command, or a file
with many of them."""

import argparse
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcp_persist_middleware.errors import ConfigurationError

if TYPE_CHECKING:
    from mcp_persist_middleware.ops.proxy import StdioOptions


def add_arguments(
    parser: argparse.ArgumentParser, count: Callable[[str], float], seconds: Callable[[str], float]
) -> None:
    """What the command takes."""
    parser.add_argument(
        "program", nargs="*", metavar="-- command arg …", help="a server to start, in place of one"
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="many servers: mcpServers JSON")
    add = parser.add_argument_group("command").add_argument
    add("--cwd", type=Path, metavar="DIR", help="where it runs (default: here)")
    add(
        "--env",
        action="append",
        default=[],
        metavar="NAME[=VALUE]",
        help="put into its environment; without a value the proxy's own, which is no secret told",
    )
    add("--pass-environment", action="store_true", help="it inherits the whole environment")
    add("--max-children", type=count, default=100, help="processes at once (default 100)")
    add("--child-idle", type=seconds, default=1800.0, help="ends an unused one (default 30m)")


def target(given: Mapping[str, Any]) -> str:
    """Which of the ways to a server was chosen: `upstream`, `program` or `config`.

    Raises:
        ConfigurationError: none, or more than one.
    """
    chosen = [name for name in ("upstream", "program", "config") if given.get(name)]
    if len(chosen) != 1:
        raise ConfigurationError(
            reason="expected one of --upstream URL, --config FILE and -- command arg …"
        )
    return chosen[0]


def options(given: Mapping[str, Any]) -> "StdioOptions":
    """How commands are run.

    Raises:
        ConfigurationError: a variable is not there.
    """
    from mcp_persist_middleware.ops.proxy import StdioOptions, hosts

    names = hosts.names_of(given["host"], given.get("allowed_host") or ())
    return StdioOptions(
        cwd=given["cwd"],
        env=dict(map(_variable, given["env"])),
        pass_environment=given["pass_environment"],
        path=given.get("path") or "/mcp",
        # Seen to in front too: here for the pages (`Origin`) of these names.
        allowed_hosts=tuple(names) if names is not None else ("*",),
        allowed_origins=tuple(given.get("cors") or ()),
        max_children=given["max_children"],
        idle_seconds=given["child_idle"],
    )


def show_log(level: str) -> None:
    """What this library says, and what children say, goes where uvicorn's own lines go. Where
    somebody has set up logging it stays as it is."""
    from uvicorn.logging import DefaultFormatter

    ours = logging.getLogger("mcp_persist_middleware")
    if not (ours.handlers or logging.getLogger().handlers):
        handler = logging.StreamHandler()
        handler.setFormatter(DefaultFormatter("%(levelprefix)s %(message)s"))
        ours.addHandler(handler)
        ours.setLevel(level.upper())


def command(program: Sequence[str]) -> list[str]:
    """The program and its arguments, without what set them apart."""
    return list(program[1:] if program[:1] == ["--"] else program)


def _variable(text: str) -> tuple[str, str]:
    """One of `--env`. A value is never shown."""
    name, equals, value = text.partition("=")
    if not name:
        raise ConfigurationError(reason="--env: expected NAME=VALUE, or NAME alone")
    if equals:
        return name, value
    if name not in os.environ:
        raise ConfigurationError(reason=f"--env {name}: the proxy's environment has no such name")
    return name, os.environ[name]
