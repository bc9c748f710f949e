"""Header access on the raw ASGI list, and the header names of the protocol."""

import base64
from collections.abc import Iterable, Sequence

_WRAPPED = "=?base64?", "?="

RawHeader = tuple[bytes, bytes]
RawHeaders = Sequence[RawHeader]

SESSION_ID = b"mcp-session-id"
PROTOCOL_VERSION = b"mcp-protocol-version"
LAST_EVENT_ID = b"last-event-id"
EVENT_STREAM = b"text/event-stream"
MCP_METHOD = b"mcp-method"
MCP_NAME = b"mcp-name"
TRACE = (b"traceparent", b"tracestate")


def get(headers: RawHeaders, name: bytes) -> str | None:
    """The first value of a header, or None. Header bytes are latin-1 (RFC 9110)."""
    found = _raw(headers, name)
    return None if found is None else found.decode("latin-1")


def _raw(headers: RawHeaders, name: bytes) -> bytes | None:
    # Each request asks some ten times: names of another length cost no call.
    size = len(name)
    for key, value in headers:
        if len(key) == size and key.lower() == name:
            return value
    return None


def named(headers: RawHeaders) -> str | None:
    """What `Mcp-Name` names: a value that no header can have is wrapped, `=?base64?…?=`. None when
    there is none, or what is in it is damaged."""
    value = (get(headers, MCP_NAME) or "").strip(" \t")
    if not (value.startswith(_WRAPPED[0]) and value.endswith(_WRAPPED[1])):
        return value or None
    packed = value[len(_WRAPPED[0]) : -len(_WRAPPED[1])]
    try:
        return base64.b64decode(packed, validate=True).decode()
    except ValueError:
        return None


def for_browsers(headers: RawHeaders) -> list[tuple[bytes, bytes]]:
    """What of an answer's head lets scripts of other origins read it."""
    return [pair for pair in headers if pair[0].lower().startswith(b"access-control-")]


def without(headers: RawHeaders, *names: bytes) -> list[tuple[bytes, bytes]]:
    """The headers less those named, order kept."""
    return [(key, value) for key, value in headers if key.lower() not in names]


def replaced(headers: RawHeaders, name: bytes, value: str) -> list[tuple[bytes, bytes]]:
    """The headers with another value for one of them, which keeps its place."""
    new = value.encode("latin-1")
    return [(key, new if key.lower() == name else old) for key, old in headers]


def media_type(headers: RawHeaders) -> bytes:
    """The content type without its parameters, in lower case; empty when there is none."""
    value = _raw(headers, b"content-type") or b""
    return value.partition(b";")[0].strip().lower()


def accepts_event_stream(headers: RawHeaders) -> bool:
    """Whether the client said that it reads `text/event-stream`."""
    return EVENT_STREAM in (_raw(headers, b"accept") or b"").lower()


def is_event_stream(status: int, headers: RawHeaders) -> bool:
    """Whether a response head begins a readable event stream (a compressed one is not)."""
    return (
        200 <= status < 300
        and media_type(headers) == EVENT_STREAM
        and (_raw(headers, b"content-encoding") or b"identity").lower() == b"identity"
    )


def stream_head(inner: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The head of an event stream of ours: the application's own headers, in their order, less
    what no longer holds, plus what keeps proxies from buffering."""
    kept = [(k, v) for k, v in inner if k.lower() not in (b"content-length", b"content-encoding")]
    names = {key.lower() for key, _ in kept}
    for name, value in (
        (b"content-type", EVENT_STREAM),
        (b"cache-control", b"no-cache, no-transform"),
        (b"x-accel-buffering", b"no"),
    ):
        if name not in names:
            kept.append((name, value))
    return kept
