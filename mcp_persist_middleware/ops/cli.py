"""The command line. What it needs comes with an extra; `proxy` and `--version` run without."""

import argparse
import importlib.util
import sys
from collections.abc import Sequence

from mcp_persist_middleware.ops import proxy_command, version

NAME = "mcp-persist-middleware"
_NEEDS = ("typer", "rich")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit code: 0, 1 when it found something, 2 when it cannot run."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    match given:
        case ["proxy", *rest]:
            return proxy(rest)
        case ["--version"]:
            print(version.line())
            return 0
        case _:
            return _commanded(given)


def _commanded(given: Sequence[str]) -> int:
    if missing := [name for name in _NEEDS if importlib.util.find_spec(name) is None]:
        print(
            f"The command line needs {' and '.join(missing)}, which the extra cli brings: "
            f'pip install "{NAME}[cli]"',
            file=sys.stderr,
        )
        return 2
    try:
        # To import all of it takes a moment, in which somebody may think better of it.
        from mcp_persist_middleware.ops.commands import application

        application()(given, prog_name=NAME)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except KeyboardInterrupt:
        return 130
    return 0


def proxy(arguments: Sequence[str]) -> int:
    """Run the proxy; its exit code."""
    parser = argparse.ArgumentParser(
        prog=f"{NAME} proxy",
        description="Stand in front of a server that nobody can modify (extra proxy).",
    )
    proxy_command.add_arguments(parser)
    return proxy_command.run(parser.parse_args(arguments))
