"""Several hosts in one URL, a primary and its standbys: libpq's way and SQLAlchemy's two."""

import re
from collections.abc import Iterable
from urllib.parse import urlencode

from sqlalchemy import URL

_PORT = 5432
# Who connects is found as SQLAlchemy finds it, once and for all: what is a password to it, whatever
# its signs, is never read as hosts.
_SEVERAL = re.compile(
    r"(postgres[^:/?#]*://(?:[^:/]*(?::[^@]*)?@)?+)([^/?#@]*,[^/?#@]*)([/?#].*)?", re.DOTALL
)
_HOST = re.compile(r"(?:\[(?P<v6>[^\]]+)\]|(?P<name>[^:\[\]]+))(?::(?P<port>\d+))?")


def moved(text: str) -> str:
    """A URL whose several hosts are in its query: `//a:1,b:2/db` has them where SQLAlchemy does
    not look for them."""
    found = _SEVERAL.fullmatch(text)
    if found is None:
        return text
    before, hosts, rest = found.groups()
    path, _, query = (rest or "").partition("?")
    asked = "&".join(filter(None, (query, urlencode({"host": hosts}))))
    return f"{before}{path or '/'}?{asked}"


def places(url: URL) -> list[tuple[str, int]]:
    """Every host of a URL with its port.

    Raises:
        ValueError: what stands there is no list of hosts.
    """
    named = list(_listed(url.query.get("host", url.host or "")))
    ports = list(_listed(url.query.get("port", str(url.port or ""))))
    if len(ports) not in (0, 1, len(named)):
        raise ValueError(ports)
    ports = ports * len(named) if len(ports) == 1 else ports or [str(_PORT)] * len(named)
    return [_place(host, port) for host, port in zip(named, ports, strict=True)]


def _place(text: str, port: str) -> tuple[str, int]:
    if text.startswith("/") or (text.count(":") > 1 and "]" not in text):
        # A socket's directory; an address of IPv6 by itself.
        return text, int(port)
    if (found := _HOST.fullmatch(text)) is None:
        raise ValueError(text)
    return found["v6"] or found["name"], int(found["port"] or port)


def _listed(value: str | Iterable[str]) -> Iterable[str]:
    for part in [value] if isinstance(value, str) else value:
        yield from filter(None, part.split(","))


def spread(url: URL) -> URL:
    """The URL as it is, or with several hosts in the one form that leaves nothing out."""
    if (address := url.query.get("hostaddr")) and not (url.host or "host" in url.query):
        url = url.difference_update_query(["hostaddr"]).update_query_dict({"host": address})
    found = places(url)
    if len(found) < 2:
        return url
    hosts, ports = zip(*found, strict=True)
    query = dict(url.query) | {"host": ",".join(hosts), "port": ",".join(map(str, ports))}
    return url.set(host=None, port=None, query=query)


def shown(url: URL) -> URL:
    """The URL without its query, for messages."""
    hosts = ",".join(host for host, _ in places(url))
    several = "," in hosts
    return url.set(query={}, host=hosts if several else url.host)
