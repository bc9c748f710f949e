"""Run by itself with a path: uses the library where nothing is there that only POSIX has, as far
as one can tell elsewhere."""

import asyncio
import importlib
import os
import pkgutil
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn

# Others' parts ask for the platform's name, which stays.
_OTHERS = ("subprocess", "asyncpg", "redis.asyncio", "aiohttp", "uvicorn", "mcp.server.mcpserver")
_MODULES = ("fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "syslog")
_OF_OS = ("fork", "register_at_fork", "getuid", "geteuid", "getgid", "uname")
_SIGNALS = ("SIGKILL", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGQUIT", "SIGALRM", "SIGCHLD", "SIGSTOP")


def _no_handlers(*_: object) -> NoReturn:
    raise NotImplementedError


def _take_away() -> None:
    for name in _MODULES:
        sys.modules[name] = None  # type: ignore[assignment]
    for place, names in ((os, _OF_OS), (signal, _SIGNALS)):
        for name in names:
            delattr(place, name)
    asyncio.SelectorEventLoop.add_signal_handler = _no_handlers  # type: ignore[method-assign]


async def _use(path: str) -> None:
    persist: Any = importlib.import_module("mcp_persist_middleware")
    one, other = persist.Persistence(path), persist.Persistence(path, namespace="other")
    async with one, other:
        await one.ping()
        held = await asyncio.to_thread(lambda: list(Path(path).parent.glob("*-worker-*")))
        assert len(held) == 2, held


def main() -> None:
    """Import every module, and use a file."""
    for name in _OTHERS:
        importlib.import_module(name)
    _take_away()
    package = importlib.import_module("mcp_persist_middleware")
    for found in pkgutil.walk_packages(package.__path__, "mcp_persist_middleware."):
        if not found.name.endswith("__main__"):
            importlib.import_module(found.name)
    asyncio.run(_use(sys.argv[1]))
    assert [p.name for p in Path(sys.argv[1]).parent.iterdir()] == ["events.db"]


if __name__ == "__main__":
    main()
