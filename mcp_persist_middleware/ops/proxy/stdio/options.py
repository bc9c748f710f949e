"""How a command is run, and what it is allowed."""

import os
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mcp_persist_middleware.errors import ConfigurationError

# What is inherited unless everything is: as the official SDKs have it.
_HARMLESS = (
    "APPDATA HOMEDRIVE HOMEPATH LOCALAPPDATA PATH PATHEXT PROCESSOR_ARCHITECTURE SYSTEMDRIVE "
    "SYSTEMROOT TEMP USERNAME USERPROFILE"
    if sys.platform == "win32"
    else "HOME LANG LC_ALL LOGNAME PATH SHELL TERM TMPDIR USER"
).split()
# Ours: the store's URL has its password in it.
_OURS = ("MCP_PERSIST_", "_MCP_PERSIST_")
_LOCAL = ("127.0.0.1", "localhost", "::1")
_SECRET_NAME = re.compile(r"token|secret|passw|credential|auth|key|url|dsn", re.IGNORECASE)
_BEARER = re.compile(r"(?i)\b(bearer|basic)\s+\S+")
_SHORTEST_SECRET = 6


@dataclass(frozen=True, kw_only=True)
class StdioOptions:
    """How a command is run, and what it is allowed. Times are seconds."""

    cwd: str | None = None
    """Where it runs; None is where the proxy does."""
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Put into its environment."""
    pass_environment: bool = False
    """It inherits the proxy's whole environment, but for what is the proxy's own; else only what
    tells no secret (`PATH`, `HOME`, …)."""
    path: str = "/mcp"
    """Where clients find the endpoint."""
    allowed_hosts: tuple[str, ...] = _LOCAL
    """Names by which clients may call the proxy (`Host`), `*` for any: a page in a browser must
    not reach a local server by a name of its own (DNS rebinding)."""
    allowed_origins: tuple[str, ...] = ()
    """Pages that may call it (`Origin`), besides those of `allowed_hosts`; `*` for any."""
    max_children: int = 100
    """Processes at once; one more session is answered with 503, unless an idle one makes room."""
    max_requests: int = 100
    """Under way in one process."""
    max_line_bytes: int = 16 * 1024 * 1024
    """Of one message."""
    idle_seconds: float = 1800.0
    """After so long without a message a process is ended. Its session goes on with a new one."""
    start_timeout: float = 60.0
    """For the answer to `initialize` or `server/discover`: a package may have to be fetched."""
    write_timeout: float = 30.0
    """A process that reads nothing for so long is ended."""
    cancel_timeout: float = 5.0
    """For the answer to a request that its client has cancelled; then it is an error."""
    stop_timeout: float = 2.0
    """For a process to end after its input is closed, and again after SIGTERM."""


def environment(options: StdioOptions) -> dict[str, str]:
    """What a child sees."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(_OURS) and (options.pass_environment or name in _HARMLESS)
    }
    return inherited | dict(options.env)


def checked(command: Sequence[str], options: StdioOptions) -> list[str]:
    """The command, ready to be run.

    Raises:
        ConfigurationError: there is none, or it cannot be found; its directory is none.
    """
    if not command or not all(isinstance(part, str) for part in command) or not command[0]:
        raise ConfigurationError(
            reason="command: expected a program and its arguments, such as -- npx -y server"
        )
    if options.cwd is not None and not Path(options.cwd).is_dir():
        raise ConfigurationError(reason=f"cwd: {options.cwd} is no directory")
    program = command[0]
    if os.path.dirname(program):  # noqa: PTH120  # "./x" has one, "x" has none
        program = str(Path(options.cwd or "").absolute() / program)
    found = shutil.which(program, path=environment(options).get("PATH"))
    if found is None:
        raise ConfigurationError(
            reason=f"command: {command[0]} is no program that can be run; looked for in "
            + ("that place" if program != command[0] else "PATH")
        )
    return [found, *command[1:]]


class Redaction:
    """Leaves out of a text what a child was told in confidence."""

    def __init__(self, options: StdioOptions) -> None:
        told = {
            value
            for name, value in environment(options).items()
            if name in options.env or _SECRET_NAME.search(name)
        }
        long = sorted((v for v in told if len(v) >= _SHORTEST_SECRET), key=len, reverse=True)
        self._secrets = re.compile("|".join(map(re.escape, long))) if long else None

    def __call__(self, text: str) -> str:
        if self._secrets is not None:
            text = self._secrets.sub("***", text)
        return _BEARER.sub(r"\1 ***", text)
