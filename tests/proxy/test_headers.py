"""Which headers cross a reverse proxy."""

from typing import Any

import pytest

from mcp_persist_middleware.ops.proxy import headers

SCOPE: dict[str, Any] = {"client": ("10.0.0.7", 4711), "scheme": "https"}


def test_what_belongs_to_one_connection_stays_on_it() -> None:
    raw = [
        (b"Connection", b"close, X-Private"),
        (b"Keep-Alive", b"timeout=5"),
        (b"TE", b"trailers"),
        (b"Transfer-Encoding", b"chunked"),
        (b"Upgrade", b"h2c"),
        (b"Proxy-Authorization", b"Basic eA=="),
        (b"x-private", b"1"),
        (b"Mcp-Session-Id", b"s1"),
        (b"x-unknown", b"kept"),
        (b"set-cookie", b"a=1"),
        (b"set-cookie", b"b=2"),
    ]
    assert headers.end_to_end(raw) == [
        (b"mcp-session-id", b"s1"),
        (b"x-unknown", b"kept"),
        (b"set-cookie", b"a=1"),
        (b"set-cookie", b"b=2"),
    ]


def test_what_a_client_says_of_itself_is_replaced_by_what_is_known_of_it() -> None:
    raw = [
        (b"host", b"public.example"),
        (b"x-forwarded-for", b"1.2.3.4"),
        (b"forwarded", b"for=1.2.3.4"),
        (b"x-forwarded-proto", b"http"),
    ]
    assert headers.forwarded(raw, SCOPE, trusted=False) == [
        (b"host", b"public.example"),
        (b"x-forwarded-for", b"10.0.0.7"),
        (b"x-forwarded-host", b"public.example"),
        (b"x-forwarded-proto", b"https"),
    ]


def test_the_list_of_a_proxy_that_is_believed_goes_on() -> None:
    raw = [
        (b"host", b"inner"),
        (b"x-forwarded-for", b"1.2.3.4"),
        (b"x-forwarded-host", b"public.example"),
        (b"x-forwarded-proto", b"http"),
    ]
    assert headers.forwarded(raw, SCOPE, trusted=True) == [
        (b"host", b"inner"),
        (b"x-forwarded-for", b"1.2.3.4, 10.0.0.7"),
        (b"x-forwarded-host", b"public.example"),
        (b"x-forwarded-proto", b"http"),
    ]


@pytest.mark.parametrize(
    ("client", "node"),
    [(("10.0.0.7", 1), b"10.0.0.7"), (("::1", 1), b'"[::1]"'), (None, b"unknown")],
)
def test_of_several_lists_none_is_lost_and_each_goes_on_in_its_own_form(
    client: tuple[str, int] | None, node: bytes
) -> None:
    raw = [
        (b"x-forwarded-for", b"1.1.1.1"),
        (b"forwarded", b"for=1.1.1.1;proto=https"),
        (b"x-forwarded-for", b"2.2.2.2"),
        (b"forwarded", b"for=2.2.2.2"),
    ]
    told = dict(headers.forwarded(raw, SCOPE | {"client": client}, trusted=True))
    assert told[b"x-forwarded-for"].startswith(b"1.1.1.1, 2.2.2.2")
    assert told[b"forwarded"] == b"for=1.1.1.1;proto=https, for=2.2.2.2, for=" + node


@pytest.mark.parametrize("given", [[], [(b"authorization", b"Bearer ours"), (b"x-new", b"1")]])
def test_headers_of_the_operator_stand_in_the_place_of_the_clients(
    given: list[tuple[bytes, bytes]],
) -> None:
    raw = [(b"authorization", b"Bearer theirs"), (b"accept", b"*/*")]
    kept = raw if not given else raw[1:]
    assert headers.overridden(raw, given) == kept + given
