"""What an endpoint lets a page in a browser do (CORS)."""

from dataclasses import dataclass

from mcp_persist_middleware.ops.endpoint.asker import Asker, Heard
from mcp_persist_middleware.protocol import headers

_SENT = (
    "content-type",
    "mcp-session-id",
    "mcp-protocol-version",
    "last-event-id",
    "mcp-method",
    "mcp-name",
)
_READ = ("mcp-session-id",)
_METHODS = ("POST", "GET", "DELETE")
# What a page may always do.
_SIMPLE = ("POST", "GET")


@dataclass(frozen=True, slots=True)
class Pages:
    """What pages of one origin may do."""

    origin: str
    allowed: bool
    refused: int | None = None
    """The status with which the application itself refuses them."""
    unsent: tuple[str, ...] = ()
    """Methods and request headers that they may not send."""
    unread: tuple[str, ...] = ()
    """Response headers that they cannot read."""


async def look_at_pages(ask: Asker, origin: str, version: str) -> Pages:
    """Ask in the name of a page."""
    page = (b"origin", origin.encode("latin-1", "replace"))
    before = await ask.preflight(
        page,
        (b"access-control-request-method", b"DELETE"),
        (b"access-control-request-headers", ", ".join(_SENT).encode()),
    )
    answer = await ask.initialize(version, page)
    if (session := answer.header(headers.SESSION_ID)) is not None:
        await ask.end(session, version)
    if not (_lets(before, origin) and _lets(answer, origin)):
        return Pages(origin, allowed=False)
    if answer.status >= 400:
        return Pages(origin, allowed=True, refused=answer.status)
    methods = _listed(before, b"access-control-allow-methods", _METHODS)
    sent = _listed(before, b"access-control-allow-headers", _SENT)
    read = _listed(answer, b"access-control-expose-headers", _READ)
    lacking = [name for name in _METHODS if name.lower() not in methods and name not in _SIMPLE]
    return Pages(
        origin,
        allowed=True,
        unsent=(*lacking, *(name for name in _SENT if name not in sent)),
        unread=tuple(name for name in _READ if session is not None and name not in read),
    )


def _lets(heard: Heard, origin: str) -> bool:
    return heard.header(b"access-control-allow-origin") in ("*", origin)


def _listed(heard: Heard, name: bytes, every: tuple[str, ...]) -> set[str]:
    """What a header lists, in lower case; `*` is all that is asked for."""
    found = {each.strip().lower() for each in (heard.header(name) or "").split(",")}
    return {each.lower() for each in every} if "*" in found else found
