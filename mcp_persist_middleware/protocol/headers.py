"""Header access on the raw ASGI list, and the header names of the protocol."""

from collections.abc import Iterable, Sequence

RawHeaders = Sequence[tuple[bytes, bytes]]

SESSION_ID = b"mcp-session-id"
PROTOCOL_VERSION = b"mcp-protocol-version"
LAST_EVENT_ID = b"last-event-id"
EVENT_STREAM = b"text/event-stream"
TRACE = (b"traceparent", b"tracestate")


def get(headers: RawHeaders, name: bytes) -> str | None:
    """The first value of a header, or None. Header bytes are latin-1 (RFC 9110)."""
    return next((value.decode("latin-1") for key, value in headers if key.lower() == name), None)


def without(headers: RawHeaders, *names: bytes) -> list[tuple[bytes, bytes]]:
    """The headers less those named, order kept."""
    return [(key, value) for key, value in headers if key.lower() not in names]


def replaced(headers: RawHeaders, name: bytes, value: str) -> list[tuple[bytes, bytes]]:
    """The headers with another value for one of them, which keeps its place."""
    new = value.encode("latin-1")
    return [(key, new if key.lower() == name else old) for key, old in headers]


def media_type(headers: RawHeaders) -> bytes:
    """The content type without its parameters, in lower case; empty when there is none."""
    value = get(headers, b"content-type") or ""
    return value.partition(";")[0].strip().lower().encode("latin-1")


def accepts_event_stream(headers: RawHeaders) -> bool:
    """Whether the client said that it reads `text/event-stream`."""
    return EVENT_STREAM in (get(headers, b"accept") or "").lower().encode("latin-1")


def is_event_stream(status: int, headers: RawHeaders) -> bool:
    """Whether a response head begins a readable event stream (a compressed one is not)."""
    return (
        200 <= status < 300
        and media_type(headers) == EVENT_STREAM
        and (get(headers, b"content-encoding") or "identity").lower() == "identity"
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
