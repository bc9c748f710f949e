"""Which headers cross a reverse proxy, and what it adds to them. Pure functions on raw headers."""

from collections.abc import Sequence

from starlette.types import Scope

Headers = list[tuple[bytes, bytes]]

# Of one connection only, RFC 9110 sections 7.6.1 and 11.7; `Expect` the server has answered.
_HOP_BY_HOP = frozenset({
    b"connection",
    b"expect",
    b"keep-alive",
    b"proxy-authenticate",
    b"proxy-authorization",
    b"proxy-connection",
    b"te",
    b"trailer",
    b"transfer-encoding",
    b"upgrade",
})  # fmt: skip
_FORWARDED_FOR, _FORWARDED_HOST, _FORWARDED_PROTO = (
    b"x-forwarded-for",
    b"x-forwarded-host",
    b"x-forwarded-proto",
)
_FORWARDED = b"forwarded"


def end_to_end(raw: Sequence[tuple[bytes, bytes]]) -> Headers:
    """The headers that are meant for the other end, in their order; names in lower case, as ASGI
    has them. What `Connection` names stays on this connection as well."""
    named = {
        each.strip().lower()
        for name, value in raw
        if name.lower() == b"connection"
        for each in value.split(b",")
    }
    return [
        (lower, value)
        for name, value in raw
        if (lower := name.lower()) not in _HOP_BY_HOP and lower not in named
    ]


def forwarded(raw: Headers, scope: Scope, *, trusted: bool) -> Headers:
    """The headers with `X-Forwarded-For`, `-Host` and `-Proto` as an upstream expects them.

    Args:
        trusted: whether another proxy in front is believed: its list is continued, and so is its
            `Forwarded` (RFC 7239) where it sends one. Else what a client says of itself is replaced
            by what is known of it.
    """
    names = (_FORWARDED_FOR, _FORWARDED_HOST, _FORWARDED_PROTO, _FORWARDED)
    said: dict[bytes, bytes] = {}
    for name, value in raw if trusted else ():
        if name in names:
            said[name] = said[name] + b", " + value if name in said else value
    kept = [(name, value) for name, value in raw if name not in names]
    host = next((value for name, value in raw if name == b"host"), b"")
    client = scope.get("client")
    peer = client[0].encode("latin-1", "replace") if client else b""
    before = said.get(_FORWARDED_FOR, b"")
    for name, value in (
        (_FORWARDED_FOR, b", ".join(filter(None, (before, peer)))),
        (_FORWARDED_HOST, said.get(_FORWARDED_HOST, host)),
        (_FORWARDED_PROTO, said.get(_FORWARDED_PROTO, scope.get("scheme", "http").encode())),
    ):
        if value:
            kept.append((name, value))
    if (chain := said.get(_FORWARDED)) is not None:
        kept.append((_FORWARDED, chain + b", for=" + _node(peer)))
    return kept


def _node(address: bytes) -> bytes:
    """An address as RFC 7239, section 6, writes it."""
    if not address:
        return b"unknown"
    return b'"[%s]"' % address if b":" in address else address


def overridden(raw: Headers, given: Headers) -> Headers:
    """The headers with others in the place of those of the same name."""
    names = {name for name, _ in given}
    return [(name, value) for name, value in raw if name not in names] + given
