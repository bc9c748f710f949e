"""Which headers tell callers apart, and what the head of a stream is."""

import pytest

from mcp_persist_middleware.protocol import headers


@pytest.mark.parametrize(
    ("status", "raw", "expected"),
    [
        (200, [(b"Content-Type", b"text/event-stream; charset=utf-8")], True),
        (200, [(b"content-type", b"Text/Event-Stream")], True),
        (200, [(b"content-type", b"application/json")], False),
        (404, [(b"content-type", b"text/event-stream")], False),
        (200, [(b"content-type", b"text/event-stream"), (b"content-encoding", b"gzip")], False),
        (200, [], False),
    ],
)
def test_only_a_readable_event_stream_is_one(
    status: int, raw: list[tuple[bytes, bytes]], expected: bool
) -> None:
    assert headers.is_event_stream(status, raw) is expected


def test_the_head_of_a_stream_keeps_what_the_application_said() -> None:
    inner = [(b"X-Own", b"1"), (b"Cache-Control", b"no-store"), (b"Content-Length", b"5")]
    head = headers.stream_head(inner)
    assert head[:2] == inner[:2]
    assert (b"x-accel-buffering", b"no") in head
    names = [name.lower() for name, _ in head]
    assert b"content-length" not in names
    assert len(names) == len(set(names))
