"""G8: everything that is not ours passes exactly, message for message."""

import asyncio
import json
from typing import Any
from unittest.mock import AsyncMock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.middleware.gzip import GZipMiddleware

from mcp_persist_middleware import PersistMiddleware
from mcp_persist_middleware.middleware import EXTENSION
from mcp_persist_middleware.persistence import access_to
from tests.support.scripted import Call, Scripted, persisted, serving, until
from tests.support.session import MODERN, RawSession
from tests.support.squeezed import Squeezed
from tests.support.sse_client import request

MCP_CALL = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "x"}}
TOKEN = st.text("abcdefghijklmnopqrstuvwxyz-", min_size=1, max_size=8).map(str.encode)
HEADERS = st.lists(st.tuples(TOKEN, st.binary(max_size=12)), max_size=5)
BODIES = st.one_of(st.just(json.dumps(MCP_CALL).encode()), st.binary(max_size=200))


def chunks(body: bytes, sizes: list[int], kind: str) -> list[dict[str, Any]]:
    """A body as ASGI messages of these sizes."""
    parts = []
    for size in sizes:
        parts.append(body[:size])
        body = body[size:]
    parts.append(body)
    return [
        {"type": kind, "body": part, "more_body": number < len(parts)}
        for number, part in enumerate(parts, 1)
    ]


class Recorded:
    """Runs one request through an application and notes every message in its order."""

    def __init__(self, scope: dict[str, Any], body: list[dict[str, Any]]) -> None:
        self._scope, self._body = scope, list(body)
        self.seen: list[Any] = []

    async def run(self, app: Any) -> list[Any]:
        await app(self._scope, self._receive, self._send)
        return self.seen

    async def _receive(self) -> dict[str, Any]:
        message = self._body.pop(0) if self._body else {"type": "http.disconnect"}
        self.seen.append(("receive", message))
        return message

    async def _send(self, message: dict[str, Any]) -> None:
        self.seen.append(("send", message))


def application(answer: list[dict[str, Any]], reads: int) -> Any:
    """Reads some messages between those that it sends; its scope is part of what is compared."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        extensions = {k: v for k, v in scope.get("extensions", {}).items() if k != EXTENSION}
        scope = {**scope, "extensions": extensions}
        await send({"type": "http.response.debug", "scope": scope})
        for number, message in enumerate(answer):
            if number < reads:
                await receive()
            await send(message)

    return app


@pytest.fixture
def middleware(store: str) -> Any:
    """The middleware around whatever the test gives it, one event loop for all examples."""
    with asyncio.Runner() as runner:
        made = PersistMiddleware(AsyncMock(), url=store, modern_streams="pass")

        async def both(app: Any, scope: Any, body: Any) -> tuple[list[Any], list[Any]]:
            made.app = app
            bare = await Recorded(scope(), body).run(app)
            return bare, await Recorded(scope(), body).run(made)

        yield lambda *given: runner.run(both(*given))
        runner.run(made.aclose())


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    method=st.sampled_from(["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS"]),
    headers=HEADERS,
    ours=st.booleans(),
    body=BODIES,
    sizes=st.lists(st.integers(0, 60), max_size=4),
    status=st.sampled_from([200, 202, 204, 400, 404, 500]),
    content_type=st.sampled_from([b"text/event-stream", b"application/json", b"image/png"]),
    answer=st.binary(max_size=300),
    answer_sizes=st.lists(st.integers(0, 90), max_size=4),
    reads=st.integers(0, 6),
)
def test_what_is_not_ours_is_the_same_messages_in_the_same_order(
    middleware: Any,
    method: str,
    headers: list[tuple[bytes, bytes]],
    ours: bool,
    body: bytes,
    sizes: list[int],
    status: int,
    content_type: bytes,
    answer: bytes,
    answer_sizes: list[int],
    reads: int,
) -> None:
    # 2026-07-28 under "pass", and requests without any sign of MCP.
    more = [
        (b"accept", b"application/json, text/event-stream"),
        (b"content-type", b"application/json"),
        (b"mcp-protocol-version", MODERN.encode()),
        (b"last-event-id", b"7"),
    ]
    head = [*headers, *(more if ours else more[:1])]
    start = {
        "type": "http.response.start",
        "status": status,
        "headers": [*headers, (b"content-type", content_type), (b"set-cookie", b"a=1")],
    }

    def scope() -> dict[str, Any]:
        return {
            "type": "http",
            "method": method,
            "path": "/mcp",
            "root_path": "",
            "query_string": b"q=1",
            "headers": list(head),
            "extensions": {"http.response.trailers": {}},
        }

    replies = [start, *chunks(answer, answer_sizes, "http.response.body")]
    app = application(replies, reads)
    bare, passed = middleware(app, scope, chunks(body, sizes, "http.request"))
    assert passed == bare


async def test_2026_07_28_passed_through_hears_of_its_disconnect_at_once(store: str) -> None:
    async def wait(call: Call) -> None:
        await call.head()
        await call.progress(1)
        await call.watch()

    app = Scripted(wait=wait)
    async with persisted(app, store, modern_streams="pass", disconnect_grace=60) as (port, _):
        session = await RawSession.open(port, MODERN)
        response = await session.call("wait")
        (first,) = await response.take(1)
        assert first.id is None
        response.reset()
        await until(app.calls[0].gone.is_set, timeout=2)


async def test_a_chat_endpoint_beside_it_is_left_alone(store: str) -> None:
    gone = asyncio.Event()

    async def chat(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["path"] != "/chat":
            await Scripted()(scope, receive, send)
            return
        await receive()
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"id: 1\ndata: a\n\n", "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass
        gone.set()

    async with persisted(chat, store) as (port, _):
        session = await RawSession.open(port)
        accept = {"accept": "text/event-stream", "content-type": "application/json"}
        body = json.dumps({**MCP_CALL, "method": "message/stream"}).encode()
        # Somebody sends it the headers of MCP: that makes it none.
        spoof = await request(
            port, "POST", "/chat", headers=session.headers() | accept, body=b'{"jsonrpc": "1.0"}'
        )
        spoof.reset()
        await asyncio.wait_for(gone.wait(), 5)
        for headers in (accept, accept | {"last-event-id": "4"}):
            gone.clear()
            response = await request(port, "POST", "/chat", headers=headers, body=body)
            (frame,) = await response.take(1)
            assert (frame.id, frame.data) == ("1", "a")
            response.reset()
            await asyncio.wait_for(gone.wait(), 5)


@pytest.mark.parametrize("status", [200, 202, 400, 404, 500])
async def test_an_answer_that_is_no_event_stream_is_unchanged(store: str, status: int) -> None:
    async def plain(call: Call) -> None:
        await call.json(status, {"jsonrpc": "2.0", "id": call.request["id"], "result": {"a": 1}})

    async with persisted(Scripted(plain=plain), store) as (port, _):
        session = await RawSession.open(port)
        response = await session.call("plain")
        assert response.status == status
        assert response.headers["content-type"] == "application/json"
        assert json.loads(await response.body())["result"] == {"a": 1}


@pytest.mark.parametrize("compress", [GZipMiddleware, Squeezed])
async def test_json_that_the_application_compresses_arrives_as_without_us(
    store: str, compress: Any
) -> None:
    async def large(call: Call) -> None:
        result = {"pad": "x" * 5000}
        await call.json(200, {"jsonrpc": "2.0", "id": call.request["id"], "result": result})

    def app() -> Any:
        return compress(Scripted(large=large))

    answers = []
    async with serving(app()) as bare, persisted(app(), store) as (port, _):
        for each in (bare, port):
            session = await RawSession.open(each, extra={"accept-encoding": "br, gzip;q=0.9"})
            response = await session.call("large")
            told = [pair for pair in response.raw_headers if pair[0] != "date"]
            answers.append((response.status, told, await response.body()))
    assert answers[0] == answers[1]
    assert dict(answers[0][1])["content-encoding"] == "gzip"


async def test_events_that_the_application_compresses_arrive_one_by_one_and_can_be_resumed(
    store: str,
) -> None:
    more = asyncio.Semaphore(0)

    async def slow(call: Call) -> None:
        await call.head((b"vary", b"accept-encoding"))
        for value in (1, 2):
            await call.progress(value, "x" * 100_000)
            await more.acquire()
        await call.result()

    async with persisted(Squeezed(Scripted(slow=slow)), store) as (port, _):
        session = await RawSession.open(port, extra={"accept-encoding": "gzip"})
        response = await session.call("slow")
        assert "content-encoding" not in response.headers
        assert response.headers["vary"] == "accept-encoding"
        (first,) = await response.take(1)
        response.reset()
        back = await session.get(first.id)
        more.release()
        (second,) = await back.take(1)
        more.release()
        (last,) = await back.take(1)
        assert (first.progress, second.progress, last.is_response) == (1, 2, True)


@pytest.mark.parametrize("is_stream", [True, False])
async def test_a_client_that_has_closed_its_half_is_answered_if_the_server_lets_it_be(
    store: str, *, is_stream: bool
) -> None:
    async def soon(call: Call) -> None:
        if is_stream:
            await call.head()
            await asyncio.sleep(0.1)
            await call.result()
        else:
            await asyncio.sleep(0.1)
            await call.json(200, {"jsonrpc": "2.0", "id": 1, "result": "done"})

    async def late(call: Call) -> None:
        await call.head()
        await over.wait()
        await call.result("kept")

    over = asyncio.Event()
    app = Scripted(soon=soon, late=late)
    made = PersistMiddleware(app, url=store)
    try:
        assert b"done" in b"".join(await half_closed(made, "soon"))
        # It is no reason to hold on to one that has gone; the tool goes on.
        async with asyncio.timeout(5):
            assert b"kept" not in b"".join(await half_closed(made, "late"))
        over.set()
        context = await access_to(made.persistence).context()
        await until(lambda: not context.tasks)
        assert not app.calls[-1].gone.is_set()
    finally:
        await made.aclose()


async def half_closed(app: Any, tool: str) -> list[bytes]:
    """What an application sends for a call after whose body the server says that nobody reads."""
    body = json.dumps({**MCP_CALL, "params": {"name": tool}}).encode()
    kinds = b"application/json", b"application/json, text/event-stream"
    pairs = zip((b"content-type", b"accept"), kinds, strict=True)
    headers = [(b"mcp-protocol-version", b"2025-11-25"), *pairs]
    scope = {"type": "http", "method": "POST", "path": "/mcp", "headers": headers}
    run = Recorded(scope, [{"type": "http.request", "body": body, "more_body": False}])
    return [said.get("body", b"") for way, said in await run.run(app) if way == "send"]


async def test_a_compressed_stream_that_breaks_ends_with_an_error(
    store: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(call: Call) -> None:
        await call.head((b"content-encoding", b"gzip"))
        await call.progress(1)
        await call.result()

    async with persisted(Scripted(broken=broken), store) as (port, _):
        session = await RawSession.open(port, extra={"accept-encoding": "gzip"})
        (error,) = await (await session.call("broken")).take(1)
        assert error.message["error"]["code"] == -32000
    assert caplog.text.count("not in the coding it says") == 1


async def test_an_exception_before_the_head_is_the_servers_to_answer(store: str) -> None:
    async def broken(call: Call) -> None:
        raise RuntimeError("before the head")

    async with persisted(Scripted(broken=broken), store) as (port, _):
        session = await RawSession.open(port)
        assert (await session.call("broken")).status == 500


async def test_a_body_over_the_cap_streams_through(store: str) -> None:
    async def plain(call: Call) -> None:
        await call.json(200, {"jsonrpc": "2.0", "id": call.request["id"], "result": {}})

    async with persisted(Scripted(plain=plain), store, max_body_bytes=1024) as (port, persistence):
        session = await RawSession.open(port)
        live = (await access_to(persistence).context()).writer.live
        await until(lambda: not live)
        response = await session.call("plain", pad="x" * 900)
        assert (response.status, len(live)) == (200, 0)


async def test_paths_and_persist_exempt_what_they_say(store: str) -> None:
    async def two(call: Call) -> None:
        await call.head()
        await call.progress(1)
        await call.result()

    async with persisted(Scripted(two=two), store, paths=["/mcp"]) as (port, _):
        inside = await RawSession.open(port)
        outside = await RawSession.open(port, path="/mcpx")
        assert (await (await inside.call("two")).take(1))[0].id
        assert (await (await outside.call("two")).take(1))[0].id is None
    only = {"persist": lambda connection: "x-skip" not in connection.headers}
    async with persisted(Scripted(two=two), store, **only) as (port, _):
        session = await RawSession.open(port)
        assert (await (await session.call("two")).take(1))[0].id
        session.extra["x-skip"] = "1"
        assert (await (await session.call("two")).take(1))[0].id is None
