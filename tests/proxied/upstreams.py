"""The servers that the proxy is put in front of: the official TypeScript everything-server, from
npm, and one of the Python SDK."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.peers.npm import install
from tests.proxied.processes import Command

_EVERYTHING = "@modelcontextprotocol/server-everything"
NPM = Path.home() / ".cache" / "mcp-persist-middleware-everything"


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of server with a tool that reports its progress step by step."""

    tool: str
    arguments: Callable[[int, float], dict[str, Any]]
    """Of so many steps with so many seconds between them."""
    start: Callable[[Path, Path], Command]
    """A server, not started; its files, and the packages of npm."""


def _everything(directory: Path, cache: Path) -> Command:
    modules = install(cache, _EVERYTHING)
    command = ["node", str(modules / _EVERYTHING / "dist/index.js"), "streamableHttp"]
    return Command(command, directory / "upstream.log", {"PORT": "{port}"})


def _sdk(directory: Path, _cache: Path) -> Command:
    command = [sys.executable, "-m", "uvicorn", "--factory", "tests.support.servers:app"]
    return Command([*command, "--port", "{port}"], directory / "upstream.log")


KINDS = {
    "everything": Kind(
        "trigger-long-running-operation",
        lambda steps, pause: {"duration": round(steps * pause, 3), "steps": steps},
        _everything,
    ),
    "sdk": Kind("count", lambda steps, pause: {"n": steps, "delay": pause}, _sdk),
}
