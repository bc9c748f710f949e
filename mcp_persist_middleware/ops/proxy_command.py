"""`mcp-persist-middleware proxy`: the proxy as a process, on uvicorn."""

import argparse
import asyncio
import gc
import json
import multiprocessing
import os
import signal
import ssl
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcp_persist_middleware.errors import ConfigurationError
from mcp_persist_middleware.ops import proxy_stdio_command as stdio_command
from mcp_persist_middleware.settings import units

if TYPE_CHECKING:
    from mcp_persist_middleware.ops.proxy import UpstreamOptions

_NEEDS = ("aiohttp", "uvicorn")
# How the arguments reach the worker processes. A secret is in them only where it was an argument.
_ARGUMENTS = "_MCP_PERSIST_PROXY"
_PLAIN = (
    "connect_timeout",
    "head_timeout",
    "idle_timeout",
    "max_requests",
    "path",
    "preserve_host",
    "trust_forwarded",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    seconds = _above_zero(units.SECONDS.parse, "a time such as 90, 90s or 5m,")
    count = _above_zero(int, "a whole number")
    add = parser.add_argument
    add(
        "--upstream",
        action="append",
        metavar="URL",
        help="the server's MCP endpoint; again for each other server that does the same",
    )
    add("--url", help="the store (default: MCP_PERSIST_URL)")
    add("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
    add("--port", type=int, default=8080, help="port to listen on (default 8080; 0: any)")
    add("--workers", type=count, default=1, help="processes on one store (default 1)")
    add("--path", help="where clients find the endpoint (default: where the upstream has it)")
    add(
        "--cors",
        action="extend",
        default=[],
        nargs="+",
        metavar="ORIGIN",
        help="pages that may speak to it, such as https://app.example; or '*'",
    )
    add(
        "--allowed-host",
        action="append",
        default=[],
        metavar="NAME",
        help="answer to this name too, where --host is of this machine alone; '*': to any",
    )
    add("--log-level", default="info", choices=("debug", "info", "warning", "error"))
    add("--check", action="store_true", help="say what the upstream speaks, and end: 0 if it fits")
    add("--json", action="store_true", help="with --check: as JSON")
    _add_upstream_arguments(parser, count, seconds)
    stdio_command.add_arguments(parser, count, seconds)


def _add_upstream_arguments(
    parser: argparse.ArgumentParser, count: Callable[[str], float], seconds: Callable[[str], float]
) -> None:
    add = parser.add_argument_group("upstream").add_argument
    add("--connect-timeout", type=seconds, default=5.0, help="tried for so long (default 5)")
    add("--head-timeout", type=seconds, help="until a response begins (default: no limit)")
    add("--idle-timeout", type=seconds, help="between parts of a response (default: no limit)")
    add("--max-requests", type=count, default=2000, help="under way at once (default 2000)")
    add("--preserve-host", action="store_true", help="send the client's Host on")
    add("--trust-forwarded", action="store_true", help="believe X-Forwarded-* from in front")
    add("--header-file", type=Path, metavar="FILE", help="headers for every request, 'Name: value'")
    add("--ca-file", type=Path, metavar="PEM", help="trust these authorities alone")
    add("--client-cert", type=Path, metavar="PEM", help="certificate (and key) of this proxy")
    add("--client-key", type=Path, metavar="PEM", help="its key, where that is another file")


def run(given: argparse.Namespace) -> int:
    """Serve until a signal, or check; the exit code."""
    if missing := [name for name in _NEEDS if not _importable(name)]:
        print(
            f"The proxy needs {' and '.join(missing)}, which the extra proxy brings: "
            'pip install "mcp-persist-middleware[proxy]"',
            file=sys.stderr,
        )
        return 2
    if given.check:
        return _check(given)
    import uvicorn

    arguments = {
        name: str(value) if isinstance(value, Path) else value
        for name, value in vars(given).items()
        if name not in ("command", "run", "check", "json")
    }
    os.environ[_ARGUMENTS] = json.dumps(arguments)
    try:
        # What is wrong is said once, and not by every worker.
        application()
    except ConfigurationError as error:
        print(error, file=sys.stderr)
        return 2
    uvicorn.run(
        f"{__name__}:application",
        factory=True,
        host=given.host,
        port=given.port,
        workers=given.workers,
        log_level=given.log_level,
        access_log=False,
        # Streams end in order before: see drain_seconds.
        timeout_graceful_shutdown=30,
        # The upstream's own headers pass, and no others.
        server_header=False,
        date_header=False,
    )
    return 0


def application() -> Any:
    """The ASGI application of one worker process.

    Raises:
        ConfigurationError: an argument is wrong.
    """
    from mcp_persist_middleware.ops.proxy import hosts, with_cors

    given = json.loads(os.environ[_ARGUMENTS])
    _end_with_parent()
    stdio_command.show_log(given.get("log_level", "warning"))
    app = _application(given)
    if given["cors"]:
        app = with_cors(app, given["cors"])
    # What was imported stays to the end: this process is ours, and its collector need not go
    # through all of that again and again while calls come.
    gc.collect()
    gc.freeze()
    names = hosts.names_of(given["host"], given["allowed_host"])
    return app if names is None else hosts.AllowedHosts(app, names)


def _application(given: Mapping[str, Any]) -> Any:
    from mcp_persist_middleware.ops.proxy import config_app, proxy_app

    match stdio_command.target(given):
        case "program":
            command = stdio_command.command(given["program"])
            return proxy_app(url=given["url"], command=command, stdio=stdio_command.options(given))
        case "config":
            own = stdio_command.options(given)
            return config_app(given["config"], given["url"], options=_options(given), stdio=own)
        case _:
            return proxy_app(given["upstream"], given["url"], options=_options(given))


def _end_with_parent() -> None:
    """A worker process whose parent was killed would keep the port, and nobody would end it."""
    if (parent := multiprocessing.parent_process()) is None:
        return

    def wait() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="mcp-persist-proxy-parent", daemon=True).start()


def _check(given: argparse.Namespace) -> int:
    """Say what the upstreams speak: 0 when all of them can be served."""
    from mcp_persist_middleware.ops.proxy import servers
    from mcp_persist_middleware.ops.proxy.check import check

    if given.upstream is None:
        print("--check looks at what --upstream names", file=sys.stderr)
        return 2
    try:
        found = asyncio.run(check(servers(given.upstream, _options(vars(given)))))
    except ConfigurationError as error:
        print(error, file=sys.stderr)
        return 2
    is_served = all(each.trouble is None for each in found)
    if given.json:
        print(json.dumps({"ok": is_served, "upstreams": [each.as_json() for each in found]}))
    else:
        print(*found, sep="\n")
    return 0 if is_served else 1


def _options(given: Mapping[str, Any]) -> "UpstreamOptions":
    from mcp_persist_middleware.ops.proxy import UpstreamOptions

    return UpstreamOptions(
        **{name: given[name] for name in _PLAIN},
        headers=read_headers(given["header_file"]),
        tls=tls_context(given["ca_file"], given["client_cert"], given["client_key"]),
    )


def read_headers(file: str | Path | None) -> tuple[tuple[str, str], ...]:
    """The headers in a file. Neither a value nor a line of it is ever shown.

    Raises:
        ConfigurationError: it cannot be read, or has a line that is no header.
    """
    if file is None:
        return ()
    pairs = []
    try:
        lines = Path(file).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            reason=f"--header-file {file} cannot be read ({type(error).__name__})"
        ) from error
    for number, line in enumerate(lines, 1):
        if not (text := line.strip()) or text.startswith("#"):
            continue
        name, colon, value = text.partition(":")
        if not (colon and name and name.replace("-", "").replace("_", "").isalnum()):
            raise ConfigurationError(
                reason=f"--header-file {file}, line {number}: expected 'Name: value'"
            )
        pairs.append((name, value.strip()))
    return tuple(pairs)


def tls_context(
    ca_file: str | Path | None, certificate: str | Path | None, key: str | Path | None
) -> ssl.SSLContext | None:
    """How an upstream is trusted, and what it is shown; None is the system's own way.

    Raises:
        ConfigurationError: a file cannot be used.
    """
    if key is not None and certificate is None:
        raise ConfigurationError(reason="--client-key needs --client-cert beside it")
    if ca_file is None and certificate is None:
        return None
    try:
        context = ssl.create_default_context(cafile=ca_file)
        if certificate is not None:
            context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        files = ", ".join(str(file) for file in (ca_file, certificate, key) if file is not None)
        raise ConfigurationError(
            reason=f"TLS files {files} cannot be used ({error.strerror or type(error).__name__})"
        ) from error
    return context


def _above_zero(read: Callable[[str], float | None], what: str) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = read(text)
        except ValueError:
            value = None
        if value is None or not value > 0:
            raise argparse.ArgumentTypeError(f"expected {what} above 0, not {text!r}")
        return value

    return parse


def _importable(name: str) -> bool:
    try:
        __import__(name)
    except ImportError:
        return False
    return True
