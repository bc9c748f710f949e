"""Many servers from one file, in the shape that Claude, Cursor and VS Code have: each has a path of
its own, and a page lists them.

Neither the value of a header nor of a variable is ever shown.
"""

import html
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

from starlette.responses import HTMLResponse, JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from mcp_persist_middleware.asgi import responses
from mcp_persist_middleware.errors import ConfigurationError
from mcp_persist_middleware.ops.proxy.application import Application
from mcp_persist_middleware.ops.proxy.pool import UpstreamOptions
from mcp_persist_middleware.ops.proxy.stdio import StdioOptions, StdioUpstream
from mcp_persist_middleware.ops.proxy.upstream import Upstream
from mcp_persist_middleware.protocol import headers

T = TypeVar("T")
_KEYS = ("mcpServers", "servers")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_VARIABLE = re.compile(r"\$\{(?:env:)?([A-Za-z_]\w*)(?::-([^}]*))?\}|\$\{(input:[^}]*)\}")
_PAGE = """<!doctype html><meta charset="utf-8"><title>MCP servers</title>
<style>body{{font:1rem sans-serif;margin:2rem}}td,th{{padding:.3rem 1rem;text-align:left}}</style>
<h1>MCP servers</h1><table><tr><th>Name<th>Endpoint<th>Kind<th>State{rows}</table>"""


@dataclass(frozen=True)
class Server:
    """One of the servers in a file."""

    name: str
    app: StdioUpstream | Upstream
    inner_path: str
    """Where the server itself has its endpoint."""

    @property
    def path(self) -> str:
        """Where clients find it."""
        return f"/servers/{self.name}/mcp"

    def report(self) -> dict[str, object]:
        """What may be known of it by anybody."""
        match self.app:
            case StdioUpstream(children=children):
                state = children.breaker.state.value
                more = {"kind": "command", "circuit": state, "children": len(children)}
            case upstream:
                more = {"kind": "http", "circuit": upstream.breaker.state.value}
        return {"name": self.name, "path": self.path, **more}


class Servers(Application):
    """The servers in a file, as one application: `/servers/NAME/mcp`, and a page at `/`."""

    def __init__(self, servers: Mapping[str, Server]) -> None:
        self.all = servers
        self._by_path = {server.path: server for server in servers.values()}

    async def aclose(self) -> None:
        for server in self.all.values():
            await server.app.aclose()

    def report(self) -> list[dict[str, object]]:
        """What may be known of them by anybody."""
        return [server.report() for server in self.all.values()]

    async def http(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"].rstrip("/") or "/"
        if path == "/" and scope["method"] in ("GET", "HEAD"):
            await self._page(scope)(scope, receive, send)
        elif (server := self._by_path.get(path)) is not None:
            inner = {"path": server.inner_path, "raw_path": quote(server.inner_path).encode()}
            await server.app({**scope, **inner}, receive, send)
        else:
            await responses.not_found(send, "Not Found")

    def _page(self, scope: Scope) -> ASGIApp:
        servers = self.report()
        if "json" in (headers.get(scope["headers"], b"accept") or ""):
            return JSONResponse({"servers": servers})
        rows = "".join(
            f"<tr><td>{html.escape(str(each['name']))}<td>{html.escape(str(each['path']))}"
            f"<td>{each['kind']}<td>{each['circuit']}"
            for each in servers
        )
        return HTMLResponse(_PAGE.format(rows=rows))


def read(
    file: Path, options: UpstreamOptions | None = None, stdio: StdioOptions | None = None
) -> Servers:
    """The servers in a file.

    Args:
        options, stdio: what holds for each of them; the file says the rest.

    Raises:
        ConfigurationError: the file, or something in it, is wrong.
    """
    try:
        given = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            reason=f"--config {file} cannot be read ({type(error).__name__})"
        ) from error
    except json.JSONDecodeError as error:
        # Its text is not shown: what it is about may be a value.
        raise ConfigurationError(
            reason=f"--config {file} is no JSON: line {error.lineno}, column {error.colno}"
        ) from None
    listed = next((given[key] for key in _KEYS if isinstance(given, dict) and key in given), None)
    if not isinstance(listed, dict) or not listed:
        raise ConfigurationError(reason=f'--config {file}: expected {{"mcpServers": {{NAME: …}}}}')
    found = {}
    for name, entry in listed.items():
        if not _NAME.fullmatch(name):
            raise ConfigurationError(
                reason=f"--config {file}: {name!r} is no name that a path can have: letters, "
                "digits, '.', '_' and '-'"
            )
        if isinstance(entry, dict) and entry.get("disabled") is True:
            continue
        reader = _Entry(f"--config {file}: server {name!r}", entry)
        found[name] = reader.server(name, options or UpstreamOptions(), stdio or StdioOptions())
    return Servers(found)


class _Entry:
    """One server as the file describes it."""

    def __init__(self, where: str, entry: object) -> None:
        self._where = where
        if not isinstance(entry, dict):
            raise self._wrong("expected an object")
        self._entry = entry

    def server(self, name: str, options: UpstreamOptions, stdio: StdioOptions) -> Server:
        """It, ready to be asked."""
        match self._entry:
            case {"command": _, "url": _}:
                raise self._wrong("has a command and a url")
            case {"type": "sse"}:
                raise self._wrong("speaks the old HTTP+SSE transport; Streamable HTTP is needed")
            case {"command": _}:
                return Server(name, self._made(lambda: self._command(stdio)), stdio.path)
            case {"url": _}:
                url = self._text("url")
                path = urlsplit(url).path or "/"
                return Server(name, self._made(lambda: self._upstream(url, options)), path)
            case _:
                raise self._wrong("expected a command or a url")

    def _command(self, options: StdioOptions) -> StdioUpstream:
        args = self._entry.get("args", [])
        if not isinstance(args, list) or not all(isinstance(arg, str) for arg in args):
            raise self._wrong("args: expected a list of texts")
        cwd = self._text("cwd") if "cwd" in self._entry else options.cwd
        own = replace(options, env={**options.env, **self._texts("env")}, cwd=cwd)
        command = [self._text("command"), *(self._filled("args", arg) for arg in args)]
        return StdioUpstream(command, own)

    def _upstream(self, url: str, options: UpstreamOptions) -> Upstream:
        own = replace(options, headers=(*options.headers, *self._texts("headers").items()))
        return Upstream(url, own)

    def _made(self, make: Callable[[], T]) -> T:
        try:
            return make()
        except ConfigurationError as error:
            if str(error.fields["reason"]).startswith(self._where):
                raise
            raise self._wrong(str(error.fields["reason"])) from None

    def _texts(self, key: str) -> dict[str, str]:
        given = self._entry.get(key, {})
        if not isinstance(given, dict):
            raise self._wrong(f"{key}: expected an object")
        for name, value in given.items():
            if not isinstance(value, str):
                raise self._wrong(f"{key}: the value of {name!r} is no text")
        return {name: self._filled(f"{key}: {name}", value) for name, value in given.items()}

    def _text(self, key: str) -> str:
        value = self._entry[key]
        if not isinstance(value, str) or not value:
            raise self._wrong(f"{key}: expected a text")
        return self._filled(key, value)

    def _filled(self, key: str, text: str) -> str:
        """The text with the variables of the proxy's environment that it names."""

        def value(found: re.Match[str]) -> str:
            name, otherwise, unknown = found.groups()
            if unknown is not None:
                raise self._wrong(f"{key}: nobody is asked for ${{{unknown}}}; use ${{NAME}}")
            known: Any = os.environ.get(name, otherwise)
            if known is None:
                raise self._wrong(f"{key}: the environment has no variable {name}")
            return str(known)

        return _VARIABLE.sub(value, text)

    def _wrong(self, text: str) -> ConfigurationError:
        return ConfigurationError(reason=f"{self._where} {text}")
