"""What an upstream answers is what the client of the proxy gets, and what it does not answer is an
error that says so, at once or in the time that was set."""

import asyncio
import gzip
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from mcp_persist_middleware import ConfigurationError
from mcp_persist_middleware.ops.proxy import Upstream, UpstreamOptions
from mcp_persist_middleware.ops.proxy.breaker import State
from mcp_persist_middleware.ops.proxy_command import tls_context
from tests.proxy.wired import Wired, wired
from tests.support.certificates import Authority
from tests.support.scripted import serving, until
from tests.support.sse_client import Response, request
from tests.support.stores import free_port

ZIPPED = gzip.compress(b"x" * 5000)
BIG = b"0123456789abcdef" * 65536 * 8

ANSWERS: dict[str, bytes] = {
    "json": b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}",
    "gzip": b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: %d\r\n\r\n%s"
    % (len(ZIPPED), ZIPPED),
    "a redirect": b"HTTP/1.1 307 Temporary Redirect\r\nlocation: /mcp/\r\n"
    b"content-length: 0\r\n\r\n",
    "a challenge": b'HTTP/1.1 401 Unauthorized\r\nwww-authenticate: Bearer realm="a", Basic\r\n'
    b"content-length: 4\r\n\r\nno!\n",
    "early hints": b"HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n"
    b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
    "cookies and unknown headers": b"HTTP/1.1 200 OK\r\nset-cookie: a=1; Path=/\r\n"
    b"set-cookie: b=2\r\nx-what: \xe4\xf6\r\nmcp-session-id: s 1\r\ncontent-length: 0\r\n\r\n",
    "no content": b"HTTP/1.1 204 No Content\r\nx-a: b\r\n\r\n",
    "an unknown status": b"HTTP/1.1 299 Whatever\r\ncontent-length: 1\r\n\r\n!",
    "a server error": b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 5\r\n\r\nsorry",
    "a large body": b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(BIG), BIG),
    "an end by closing": b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nall of it",
    "chunks": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n",
}
OF_THE_CONNECTION = ("date", "server", "connection", "transfer-encoding")


@asynccontextmanager
async def proxied(answer: Any, **options: Any) -> AsyncIterator[tuple[int, Wired, Upstream]]:
    """A proxy in front of a server of bytes; its port."""
    async with wired(answer) as server:
        upstream = Upstream(f"http://127.0.0.1:{server.port}/mcp", UpstreamOptions(**options))
        async with serving(upstream) as port:
            yield port, server, upstream


async def told(response: Response) -> tuple[int, list[tuple[str, str]], bytes]:
    """An answer without what belongs to its connection."""
    pairs = [(k, v) for k, v in response.raw_headers if k not in OF_THE_CONNECTION]
    try:
        return response.status, pairs, await response.body()
    finally:
        response.close()


@pytest.mark.parametrize("name", ANSWERS)
async def test_an_answer_passes_as_it_is(name: str) -> None:
    async with proxied(ANSWERS[name]) as (port, server, _):
        through = await told(await request(port, "GET", "/mcp"))
        if name == "early hints":  # the test's own client knows none
            assert (through[0], through[2]) == (200, b"ok")
            return
        assert through == await told(await request(server.port, "GET", "/mcp"))


async def test_a_head_request_has_a_head_alone() -> None:
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: 5000\r\ncontent-type: text/plain\r\n\r\n"
    async with proxied(answer) as (port, _, _):
        response = await request(port, "HEAD", "/mcp")
        assert (response.status, response.headers["content-length"]) == (200, "5000")
        with pytest.raises(asyncio.IncompleteReadError) as nothing:
            await response.body()
        assert nothing.value.partial == b""


@pytest.mark.parametrize(
    "target",
    ["/mcp", "/mcp/", "/a%2Fb/%E4?x=%20&y=1+2&z=%00", "/?a=b?c", "/.well-known/x/../y", "//twice"],
)
async def test_the_path_and_query_pass_byte_for_byte(target: str) -> None:
    async with proxied(ANSWERS["json"]) as (port, server, _):
        (await request(port, "GET", target)).close()
        assert server.asked[0].line == f"GET {target} HTTP/1.1"


async def test_a_request_passes_whole_with_its_own_headers_and_nothing_added() -> None:
    body = b"\x00\xffbinary" * 100_000
    sent = {"content-type": "application/json", "x-odd": "\xc3\xa4", "mcp-session-id": "s1"}
    async with proxied(ANSWERS["json"]) as (port, server, _):
        (await request(port, "POST", "/mcp", headers=sent, body=body)).close()
    asked = server.asked[0]
    assert asked.body == body
    names = sorted(name.lower() for name, _ in asked.headers)
    assert names == sorted([
        *sent, "content-length", "host", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto",
    ])  # fmt: skip
    assert asked.all("host") == [f"127.0.0.1:{server.port}"]
    assert asked.all("x-forwarded-host") == [f"127.0.0.1:{port}"]
    assert asked.all("content-length") == [str(len(body))]
    assert asked.all("x-odd") == ["\xc3\xa4"]


async def test_the_clients_host_and_the_operators_headers_are_sent_where_that_is_asked() -> None:
    given = (("Authorization", "Bearer secret"),)
    async with proxied(ANSWERS["json"], preserve_host=True, headers=given) as (port, server, _):
        mine = {"authorization": "Bearer mine", "host": "public.example"}
        (await request(port, "GET", "/mcp", headers=mine)).close()
        assert server.asked[0].all("authorization") == ["Bearer secret"]
        assert server.asked[0].all("host") == ["public.example"]


def dripping(parts: list[bytes], gate: asyncio.Event) -> Callable[..., Awaitable[None]]:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n")
        for part in parts:
            writer.write(part)
            await writer.drain()
            await gate.wait()
            gate.clear()
        writer.close()

    return answer


async def test_every_part_of_a_stream_passes_as_soon_as_it_comes() -> None:
    gate = asyncio.Event()
    frames = [b"data: %d\n\n" % number for number in range(5)]
    async with proxied(dripping(frames, gate)) as (port, _, _):
        response = await request(port, "GET", "/mcp")
        for number in range(5):
            (frame,) = await response.take(1)  # before the next one is even written
            assert frame.data == str(number)
            gate.set()
        response.close()


async def test_a_client_that_leaves_ends_its_request_at_the_upstream() -> None:
    async with proxied(dripping([b"data: 0\n\n"], asyncio.Event())) as (port, server, upstream):
        response = await request(port, "GET", "/mcp")
        await response.take(1)
        response.reset()
        async with asyncio.timeout(5):
            await server.left.wait()
        assert upstream.breaker.state is State.CLOSED


async def test_a_slow_reader_costs_bounded_memory_and_holds_the_upstream() -> None:
    written = 0

    async def pour(writer: asyncio.StreamWriter) -> None:
        nonlocal written
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()
            written += 65536

    async with proxied(pour) as (port, _, _):
        response = await request(port, "GET", "/mcp", receive_buffer=4096)
        before = -1
        async with asyncio.timeout(20):
            while before != written:
                before = written
                await asyncio.sleep(0.5)
        assert 0 < written < 32 * 1024 * 1024  # the sockets' own buffers, and little more
        response.reset()


# What an upstream may do instead of answering, and what its client hears.


async def never(writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


async def closes(writer: asyncio.StreamWriter) -> None:
    writer.close()


async def babbles(writer: asyncio.StreamWriter) -> None:
    writer.write(b"SSH-2.0-OpenSSH_9.6\r\nand so on\r\n\r\n")
    await writer.drain()


@pytest.mark.parametrize(
    ("answer", "options", "status"),
    [(never, {"head_timeout": 0.2}, 504), (closes, {}, 502), (babbles, {}, 502)],
)
async def test_an_upstream_that_gives_no_answer_is_said_to_and_not_asked_twice(
    answer: Any, options: dict[str, float], status: int
) -> None:
    async with proxied(answer, **options) as (port, server, _):
        response = await request(port, "POST", "/mcp", body=b"{}")
        assert response.status == status
        assert b'"error"' in await response.body()
        assert len(server.asked) == 1


async def test_an_answer_that_breaks_off_does_not_look_whole() -> None:
    async def half(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")
        await writer.drain()
        writer.close()

    async with proxied(half) as (port, _, _):
        response = await request(port, "GET", "/mcp")
        with pytest.raises(asyncio.IncompleteReadError):
            await response.body()


async def test_a_connection_is_tried_until_the_upstream_is_back() -> None:
    port_there = free_port()
    upstream = Upstream(f"http://127.0.0.1:{port_there}/mcp", UpstreamOptions(connect_timeout=5))
    async with serving(upstream) as port:
        asking = asyncio.create_task(request(port, "POST", "/mcp", body=b"{}"))
        await until(lambda: upstream.running == 1)
        async with wired(ANSWERS["json"], port=port_there) as server:
            response = await asking
            assert (response.status, len(server.asked)) == (200, 1)


async def test_an_upstream_that_stays_away_is_soon_refused_at_once_and_then_tried_again() -> None:
    port_there = free_port()
    upstream = Upstream(f"http://127.0.0.1:{port_there}/mcp", UpstreamOptions(connect_timeout=0.1))
    async with serving(upstream) as port:
        statuses = [(await request(port, "POST", "/mcp")).status for _ in range(7)]
        assert statuses == [502] * 5 + [503] * 2
        begin = time.monotonic()
        response = await request(port, "POST", "/mcp")
        assert time.monotonic() - begin < 0.1
        assert 1 <= int(response.headers["retry-after"]) <= 5
        upstream.breaker._until = 0.0  # the five seconds are over
        async with wired(ANSWERS["json"], port=port_there):
            assert (await request(port, "POST", "/mcp")).status == 200
            assert upstream.breaker.state is State.CLOSED


async def test_one_request_too_many_is_refused_and_nobody_hangs() -> None:
    gate = asyncio.Event()
    async with proxied(dripping([b"data: 0\n\n"], gate), max_requests=3) as (port, _, upstream):
        held = [await request(port, "GET", "/mcp") for _ in range(3)]
        refused = await request(port, "GET", "/mcp")
        assert (refused.status, refused.headers["retry-after"]) == (503, "1")
        held[0].reset()
        await until(lambda: upstream.running == 2)
        again = await request(port, "GET", "/mcp")
        assert again.status == 200
        for each in [*held[1:], again]:
            each.reset()


async def test_an_upstream_on_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "mcp.sock"

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(ANSWERS["json"])
        writer.close()

    async with await asyncio.start_unix_server(serve, path):
        url = f"http+unix://{str(path).replace('/', '%2F')}/mcp"
        async with serving(Upstream(url)) as port:
            assert (await request(port, "GET", "/mcp")).status == 200


@pytest.mark.parametrize(
    "url",
    [
        "",
        "127.0.0.1:3000",
        "ftp://host/mcp",
        "http://",
        "http://host:port/mcp",
        "http://user:secret@host/mcp",
        "http://host/mcp?key=secret",
    ],
)
def test_what_is_no_address_of_a_server_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(ConfigurationError, match="expected a URL such as") as caught:
        Upstream(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("target", "there"),
    [
        ("/public", "/mcp"),
        ("/public?a=b%2F", "/mcp?a=b%2F"),
        ("/public/x%2Fy/", "/mcp/x%2Fy/"),
        ("/publicity", "/publicity"),
        ("/.well-known/public", "/.well-known/public"),
    ],
)
async def test_the_endpoint_may_be_elsewhere_for_clients(target: str, there: str) -> None:
    async with proxied(ANSWERS["json"], path="/public") as (port, server, _):
        (await request(port, "GET", target)).close()
        assert server.asked[0].line == f"GET {there} HTTP/1.1"


async def test_tls_is_verified_with_the_given_authority_and_a_certificate_shown(
    tmp_path: Path,
) -> None:
    authority = Authority(tmp_path)
    ours, theirs = authority.issue("proxy"), authority.issue("server")
    at_server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=authority.certificate)
    at_server.load_cert_chain(theirs.certificate, theirs.key)
    at_server.verify_mode = ssl.CERT_REQUIRED
    trusting = tls_context(authority.certificate, ours.certificate, ours.key)
    async with wired(ANSWERS["json"], tls=at_server) as server:
        url = f"https://127.0.0.1:{server.port}/mcp"
        async with serving(Upstream(url, UpstreamOptions(tls=trusting))) as port:
            assert (await request(port, "GET", "/mcp")).status == 200
        # Without the authority nothing is trusted, and that is said at once.
        async with serving(Upstream(url)) as port:
            began = time.monotonic()
            assert (await request(port, "GET", "/mcp")).status == 502
            assert time.monotonic() - began < 4
        # Without a certificate of ours the server takes nothing.
        nameless = tls_context(authority.certificate, None, None)
        async with serving(Upstream(url, UpstreamOptions(tls=nameless))) as port:
            assert (await request(port, "GET", "/mcp")).status == 502
        assert len(server.asked) == 1
