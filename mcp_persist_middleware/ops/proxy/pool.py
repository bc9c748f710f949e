"""Where an upstream is, and the connections to it."""

import contextlib
import os
import re
import ssl
from dataclasses import dataclass, field
from urllib.parse import quote, unquote, urlsplit

import aiohttp
from starlette.types import Scope
from yarl import URL

from mcp_persist_middleware import rarely
from mcp_persist_middleware.errors import ConfigurationError
from mcp_persist_middleware.ops.proxy import headers

logger = rarely.logger(__name__)

FIRST_PAUSE, MOST_PAUSE = 0.05, 0.5
"""Between two tries to be connected (seconds)."""
_PATH = re.compile(r"(/[A-Za-z0-9._~!$&'()*+,;=:@-]+)+")
_LINE = 64 * 1024
# Shorter than what servers keep an idle connection for (uvicorn: 5 s), so that seldom one is used
# that the other end is just closing: a POST on it could not be repeated.
_KEEP_ALIVE = 4.0
_AUTOMATIC = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")


@dataclass(frozen=True, kw_only=True)
class UpstreamOptions:
    """How an upstream is spoken to. Times are seconds; None waits for as long as it takes."""

    connect_timeout: float = 5.0
    """A connection that is refused is tried again for so long."""
    head_timeout: float | None = None
    """From the end of the request to the head of the response."""
    idle_timeout: float | None = None
    """Between two parts of a response."""
    max_requests: int = 2000
    """Under way at the same time; one more is answered with 503."""
    path: str | None = None
    """Where clients find the MCP endpoint, when it is not where the upstream has it. Other paths
    pass as they are."""
    preserve_host: bool = False
    """Send the client's `Host` on instead of the upstream's own."""
    trust_forwarded: bool = False
    """Believe `X-Forwarded-*` and `Forwarded` of another proxy in front, and continue them."""
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    """Put into every request, in the place of the client's of the same name."""
    tls: ssl.SSLContext | None = None
    """Instead of the system's own trust."""


@dataclass(frozen=True, slots=True)
class ConnectPolicy:
    """How an upstream is connected to for one request."""

    seconds: float
    """How long that may take."""
    retries: bool = True
    """Whether a connection that is refused is tried again meanwhile."""


class ConnectionPool:
    """The connections to one upstream, and what a request looks like there. They belong to the
    event loop that uses them.

    Raises:
        ConfigurationError: the URL is none that `Upstream` takes, or `path` is no path.
    """

    def __init__(self, url: str, options: UpstreamOptions) -> None:
        if options.path is not None and not _PATH.fullmatch(options.path):
            raise ConfigurationError(
                reason=f"path: expected a path such as /mcp, with no slash at its end and nothing "
                f"that a URL has to escape, not {options.path!r}"
            )
        self.options = options
        self.origin, self.path, self._socket = _split(url)
        self.name = url
        """Its address; there is no secret in it."""
        self._given = [(n.lower().encode(), v.encode("latin-1")) for n, v in options.headers]
        self._client: aiohttp.ClientSession | None = None

    async def aclose(self) -> None:
        """Close the connections. May be called twice."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    def client(self) -> aiohttp.ClientSession:
        """The pool of connections, made when it is first needed."""
        if self._client is None:
            options = self.options
            tls = options.tls if options.tls is not None else True
            connector = (
                aiohttp.UnixConnector(self._socket, limit=0, keepalive_timeout=_KEEP_ALIVE)
                if self._socket
                else aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE, ssl=tls)
            )
            self._client = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                skip_auto_headers=_AUTOMATIC,
                timeout=aiohttp.ClientTimeout(total=None),
                max_line_size=_LINE,
                max_field_size=_LINE,
            )
        return self._client

    def request_headers(self, scope: Scope) -> headers.Headers:
        """What is sent in the name of a client."""
        raw = headers.end_to_end(scope["headers"])
        raw = headers.forwarded(raw, scope, trusted=self.options.trust_forwarded)
        if not self.options.preserve_host:
            raw = [(name, value) for name, value in raw if name != b"host"]
        return headers.overridden(raw, self._given)

    def url_of(self, scope: Scope) -> URL:
        """The same path and query there, byte for byte; what clients find elsewhere than the
        upstream has it, where that has it."""
        raw = scope.get("raw_path") or quote(scope["path"]).encode()
        path, public = raw.decode("latin-1"), self.options.path
        if public is not None and (path == public or path.startswith(f"{public}/")):
            path = self.path.rstrip("/") + path[len(public) :]
        query = scope.get("query_string", b"")
        target = (path or "/") + ("?" + query.decode("latin-1") if query else "")
        return URL(self.origin + target, encoded=True)

    def complain(self, text: str) -> None:
        """Say what is wrong with the upstream."""
        logger.warning("MPM-PROXY-01: The upstream %s: %s", self.name, text)


def why_unconnected(error: aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError) -> str:
    """Without the address, which may hold more than its host."""
    match error:
        case aiohttp.ClientConnectorError(os_error=OSError(errno=int(number))) if (
            number > 0 and not isinstance(error, aiohttp.ClientSSLError)
        ):
            return os.strerror(number)
        case aiohttp.ClientConnectorError():
            return str(error.os_error.strerror or type(error.os_error).__name__)
    return "no connection in time"


def _split(url: str) -> tuple[str, str, str]:
    """Origin, path and socket of an upstream's URL."""
    with contextlib.suppress(ValueError):
        parts = urlsplit(url)
        path, _ = parts.path or "/", parts.port  # raises for what is no port
        if not (parts.username or parts.password or parts.query or parts.fragment):
            if parts.scheme == "http+unix" and parts.netloc:
                return "http://localhost", path, unquote(parts.netloc)
            if parts.scheme in ("http", "https") and parts.hostname:
                return f"{parts.scheme}://{parts.netloc}", path, ""
    raise ConfigurationError(
        reason="upstream: expected a URL such as http://127.0.0.1:3000/mcp, https://… or "
        "http+unix://%2Frun%2Fmcp.sock/mcp, without credentials, query or fragment (credentials "
        "go into a file of headers)"
    )
