"""Which headers tell callers apart, and what the head of a stream is."""

import pytest

from mcp_persist_middleware.protocol import headers


@pytest.mark.parametrize(
    "name",
    [
        b"Authorization",
        b"Cookie",
        b"X-Api-Key",
        b"Api-Key",
        b"apikey",
        b"X-Auth-Token",
        b"Proxy-Authorization",
        b"X-Forwarded-Access-Token",
        b"X-Amzn-Oidc-Identity",
        b"X-Goog-Iap-Jwt-Assertion",
        b"Cf-Access-Jwt-Assertion",
        b"Remote-User",
        b"X-Client-Cert",
    ],
)
def test_a_header_that_can_carry_a_secret_is_a_credential(name: bytes) -> None:
    one = headers.credentials([(name, b"a"), (b"accept", b"*/*")])
    assert one == [name.lower() + b":a"]
    assert one != headers.credentials([(name, b"b")])


@pytest.mark.parametrize(
    "name",
    [
        b"Mcp-Session-Id",
        b"Mcp-Protocol-Version",
        b"Last-Event-Id",
        b"Accept",
        b"User-Agent",
        b"Content-Type",
        b"Content-Length",
        b"Host",
        b"Connection",
        b"Keep-Alive",
        b"Monkey",
        b"X-Request-Id",
    ],
)
def test_a_header_that_a_reconnection_may_change_is_not(name: bytes) -> None:
    assert headers.credentials([(name, b"a")]) == []


def test_the_order_of_headers_does_not_matter_but_each_value_does() -> None:
    pair = [(b"cookie", b"a"), (b"authorization", b"b")]
    assert headers.credentials(pair) == headers.credentials(pair[::-1])
    assert headers.credentials([*pair, (b"cookie", b"c")]) != headers.credentials(pair)


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
