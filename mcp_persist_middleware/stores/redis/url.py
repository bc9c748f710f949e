"""From `redis=` to a client: every form that a user may write.

    redis://[user:password@]host:port/db               one server; rediss:// with TLS
    redis+sentinel://[user:password@]host:port,host:port/service/db[?sentinel_password=…]
    redis+cluster://[user:password@]host:port,host:port

`rediss+sentinel://` and `rediss+cluster://` are the same with TLS. The server's certificate is
always verified: against the authorities of the system, or those in the file `?ssl_ca_certs=`;
`ssl_certfile` and `ssl_keyfile` are our own.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError

from mcp_persist_middleware.errors import InvalidSettingError

_PORTS = {"": 6379, "sentinel": 26379, "cluster": 6379}
# A function holds up whatever else the server has to do, and a message whoever else listens.
_TOGETHER, _TOLD = 64, 8 * 1024


@dataclass(frozen=True, slots=True)
class Target:
    """Where Redis is, and how to get in."""

    kind: str
    """Empty for one server, `sentinel` or `cluster`."""
    tls: bool
    hosts: tuple[tuple[str, int], ...]
    service: str
    database: int
    username: str | None
    password: str | None = field(repr=False)
    sentinel_password: str | None = field(repr=False)
    files: tuple[tuple[str, str], ...] = ()
    """Of TLS: the option's name and a path."""

    @property
    def name(self) -> str:
        """The URL without its secrets."""
        scheme = "rediss" if self.tls else "redis"
        scheme += f"+{self.kind}" if self.kind else ""
        hosts = ",".join(f"{host}:{port}" for host, port in self.hosts)
        service = f"/{self.service}" if self.service else ""
        return f"{scheme}://{hosts}{service}" + (
            "" if self.kind == "cluster" else f"/{self.database}"
        )

    def _options(self, timeout: float) -> dict[str, Any]:
        # One more attempt where an idle connection turns out to be closed; the scripts know
        # their own retry. Nobody waits twice for a server that does not answer.
        once = Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,))
        options: dict[str, Any] = {
            "username": self.username,
            "password": self.password,
            "socket_timeout": timeout,
            "socket_connect_timeout": timeout,
            "socket_keepalive": True,
            "retry": once,
        }
        return options | self._tls()

    def _tls(self) -> dict[str, Any]:
        if not self.tls:
            return {}
        verified = {"ssl_cert_reqs": "required", "ssl_check_hostname": True}
        return verified | dict(self.files)

    def connect(self, timeout: float, connections: int) -> Any:
        """A client with at most so many connections; nothing is connected yet."""
        options = self._options(timeout)
        match self.kind:
            case "cluster":
                return RedisCluster(
                    startup_nodes=[ClusterNode(host, port) for host, port in self.hosts],
                    ssl=self.tls,
                    max_connections=connections,
                    **options,
                )
            case "sentinel":
                return self._sentinel(options, timeout).master_for(
                    self.service, db=self.database, ssl=self.tls, **options
                )
            case _:
                return Redis.from_pool(self._pool(options, timeout, connections))

    def _pool(self, options: dict[str, Any], timeout: float, most: int) -> BlockingConnectionPool:
        (host, port), scheme = self.hosts[0], "rediss" if self.tls else "redis"
        return BlockingConnectionPool.from_url(
            f"{scheme}://{_bracketed(host)}:{port}/{self.database}",
            max_connections=most,
            timeout=timeout,
            **options,
        )

    def _sentinel(self, options: dict[str, Any], timeout: float) -> Sentinel:
        own = {
            "socket_timeout": timeout / 2,
            "socket_connect_timeout": timeout / 2,
            "password": self.sentinel_password,
            "retry": options["retry"],
            "ssl": self.tls,
            **self._tls(),
        }
        return Sentinel(list(self.hosts), sentinel_kwargs=own)  # type: ignore[no-untyped-call]

    @property
    def streams_at_once(self) -> int:
        """With how many streams a function may deal: in a cluster each is in a slot of its own."""
        return _TOGETHER if self.kind != "cluster" else 1

    @property
    def told(self) -> int:
        """How large (bytes) what a wake-up tells may be: in a cluster it goes to every node."""
        return _TOLD if self.kind != "cluster" else 0

    def listener(self, client: Any, timeout: float) -> Any:
        """A client for one connection of its own: in a cluster every node hears every message."""
        if self.kind != "cluster":
            return self.connect(timeout, 2)
        node = client.get_random_node()
        return Redis(host=node.host, port=node.port, ssl=self.tls, **self._options(timeout))

    async def info(self, client: Any, section: str) -> dict[str, Any]:
        """What the server, or the worst of its nodes, says of itself."""
        if self.kind != "cluster":
            info: dict[str, Any] = await client.info(section)
            return info
        found = await client.info(section, target_nodes=RedisCluster.PRIMARIES)
        by_node = (
            list(found.values()) if all(isinstance(v, dict) for v in found.values()) else [found]
        )
        evicting = [n for n in by_node if n.get("maxmemory_policy", "noeviction") != "noeviction"]
        worst: dict[str, Any] = (evicting or by_node)[0]
        return worst


def parse(text: str) -> Target:
    """The target that a URL names.

    Raises:
        InvalidSettingError: it is no such URL. Its text may hold a password and is not shown.
    """
    scheme, separator, rest = text.partition("://")
    secure, _, kind = scheme.partition("+")
    if not separator or secure not in ("redis", "rediss") or kind not in _PORTS:
        raise _wrong(
            scheme, "redis://host:6379/0, or rediss://, redis+sentinel://, redis+cluster://"
        )
    try:
        target = _target(kind, rest, tls=secure == "rediss")
    except (ValueError, IndexError):
        raise _wrong(scheme, _EXPECTED[kind]) from None
    for name, file in target.files:
        if not Path(file).is_file():
            raise _wrong(scheme, f"{name} to be a file; there is none at {file}")
    return target


def _target(kind: str, text: str, *, tls: bool) -> Target:
    """What follows the scheme; `ValueError` or `IndexError` where it is not of this kind."""
    username, password, place = _divided(text)
    parts = urlsplit(f"x://{place}")
    hosts = tuple(_host(place, _PORTS[kind]) for place in parts.netloc.split(",") if place)
    path = [part for part in unquote(parts.path).split("/") if part]
    service = path.pop(0) if kind == "sentinel" else ""
    database = int(path.pop(0)) if path else 0
    query = parse_qs(parts.query, strict_parsing=bool(parts.query))
    sentinel_password = query.pop("sentinel_password", [None])[0] if kind == "sentinel" else None
    named = query.keys() & _FILES if tls else set()
    files = tuple((name, query.pop(name)[0]) for name in sorted(named))
    several = kind != "" or len(hosts) == 1
    if not hosts or not several or path or query or (kind == "cluster" and database):
        raise ValueError
    return Target(
        kind,
        tls,
        hosts,
        service,
        database,
        unquote(username) or None,
        unquote(password) or None,
        sentinel_password,
        files,
    )


_LOGIN = re.compile(r"(?:([^:/]*)(?::([^@]*))?@)?(.*)", re.DOTALL)
_FILES = {"ssl_ca_certs", "ssl_certfile", "ssl_keyfile"}
_EXPECTED = {
    "": "redis://[user:password@]host:port/db without query, or rediss:// with ssl_ca_certs,"
    " ssl_certfile and ssl_keyfile at most",
    "sentinel": "redis+sentinel://[user:password@]host:port,host:port/service/db"
    "[?sentinel_password=…]",
    "cluster": "redis+cluster://[user:password@]host:port,host:port (it has no databases)",
}


def _divided(text: str) -> tuple[str, str, str]:
    """User, password and what follows them, found as in the URL of a SQL store: a password may
    have any sign but an @."""
    found = _LOGIN.fullmatch(text)
    assert found is not None
    username, password, place = found.groups(default="")
    if "@" in place or "#" in place or re.search(r"[\t\r\n]", place):
        raise ValueError
    return username, password, place


def _host(place: str, default: int) -> tuple[str, int]:
    parts = urlsplit(f"x://{place}")
    if not parts.hostname:
        raise ValueError(place)
    return parts.hostname, parts.port or default


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _wrong(scheme: str, expected: str) -> InvalidSettingError:
    return InvalidSettingError(
        name="redis", source="argument", value=f"{scheme[:20]}://…", expected=f"expected {expected}"
    )
