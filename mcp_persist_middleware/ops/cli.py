"""The command line, in the standard library only: the base package needs nothing for it."""

import argparse
import importlib
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from mcp_persist_middleware.ops import proxy_command as proxy

_DEMO_NEEDS = ("rich", "uvicorn", "mcp")
_MOST_CALLS = 1000


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit code."""
    given = _parser().parse_args(arguments)
    code: int = given.run(given)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mcp-persist-middleware",
        description="MCP streams and sessions that survive dropped connections.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {_version()}")
    commands = parser.add_subparsers(required=True, metavar="command")
    demo = commands.add_parser(
        "demo", help="cut every call of a real client, without and with the middleware"
    )
    demo.add_argument("--calls", type=_count, default=20, help="calls of each client (default 20)")
    demo.set_defaults(run=lambda given: _demo(given.calls))
    proxied = commands.add_parser(
        "proxy", help="stand in front of a server that nobody can modify (extra proxy)"
    )
    proxy.add_arguments(proxied)
    proxied.set_defaults(run=proxy.run)
    return parser


def _count(text: str) -> int:
    if not (text.isdecimal() and 1 <= int(text) <= _MOST_CALLS):
        raise argparse.ArgumentTypeError(f"expected 1 to {_MOST_CALLS}")
    return int(text)


def _version() -> str:
    try:
        return version("mcp-persist-middleware")
    except PackageNotFoundError:
        return "(not installed)"


def _demo(calls: int) -> int:
    missing = [name for name in _DEMO_NEEDS if not _importable(name)]
    if missing:
        print(
            f"The demo needs {', '.join(missing)}, which the extra demo brings: "
            'pip install "mcp-persist-middleware[demo]"',
            file=sys.stderr,
        )
        return 2
    from mcp_persist_middleware.ops import demo

    return demo.run(calls)


def _importable(name: str) -> bool:
    # The server side of the official SDK 2.x is the newest part that the demo uses.
    try:
        importlib.import_module("mcp.server.mcpserver" if name == "mcp" else name)
    except ImportError:
        return False
    return True
