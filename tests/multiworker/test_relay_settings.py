"""What crosses to the session's worker, and what does not: two workers on one event loop."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from mcp_persist_middleware import PersistMiddleware
from mcp_persist_middleware.persistence import access_to
from mcp_persist_middleware.relay import sealing
from tests.guarantees.test_g10_sessions import two_workers
from tests.multiworker.test_relay import value
from tests.support.scripted import Call, Message, Receive, Scripted, Send, serving, until
from tests.support.session import RawSession
from tests.support.sse_client import Response
from tests.support.stateful import State, Stateful, _event


class Mirror(Stateful):
    """Answers `count` with what it finds in its scope."""

    async def _call(self, state: State, message: Message, scope: Message, send: Send) -> None:
        state.calls += 1
        head = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        headers = dict(scope["headers"])
        found = {
            "tenant": scope.get("state", {}).get("tenant"),
            "pool": scope.get("state", {}).get("pool"),
            "calls": state.calls,
            "generation": scope["extensions"]["mcp_persist"]["generation"],
            "trace": headers.get(b"traceparent", b"").decode(),
            "path": scope["path"],
            "client": scope["client"][0],
        }
        await _event(send, {"id": message["id"], "result": {"value": found}})
        await send({"type": "http.response.body", "body": b""})


def tenants(app: Any) -> Any:
    """Outer middleware: the tenant of a request, in its state."""

    async def outer(scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            name = dict(scope["headers"]).get(b"x-tenant")
            if name is not None:
                scope["state"] = {**scope.get("state", {}), "tenant": name.decode()}
        await app(scope, receive, send)

    return outer


@asynccontextmanager
async def two(directory: Path, **settings: Any) -> AsyncIterator[tuple[int, int]]:
    """The ports of two workers on one store; one setting differs, or they would be one."""
    url = f"sqlite+aiosqlite:///{directory / 'events.db'}"
    one, other = (
        tenants(PersistMiddleware(Mirror(), url=url, retry_ms=retry, **settings))
        for retry in (1000, 1001)
    )
    async with serving(one) as first, serving(other) as second:
        yield first, second


async def test_outer_state_crosses_with_relay_scope(tmp_path: Path) -> None:
    def dump(scope: Message) -> Any:
        return scope.get("state", {}).get("tenant")

    def load(scope: Message, tenant: Any) -> None:
        scope["state"]["tenant"] = tenant

    async with two(tmp_path, relay_scope=(dump, load)) as (one, other):
        session = await RawSession.open(one, extra={"x-tenant": "acme"})
        for port in (one, other):
            session.port = port
            found = await value(await session.call("count"))
            assert (found["tenant"], found["generation"]) == ("acme", 1)


async def test_without_relay_scope_outer_state_stays_behind_and_that_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with two(tmp_path) as (one, other):
        session = await RawSession.open(one, extra={"x-tenant": "acme"})
        session.port = other
        for calls in (1, 2, 3):
            found = await value(await session.call("count"))
            assert (found["tenant"], found["calls"], found["path"]) == (None, calls, "/mcp")
    said = [each for each in caplog.messages if "relay_scope" in each]
    assert len(said) == 1


async def test_the_trace_of_a_request_crosses_with_it(tmp_path: Path) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with two(tmp_path) as (one, other):
        session = await RawSession.open(one, extra={"traceparent": trace})
        session.port = other
        found = await value(await session.call("count"))
        assert (found["trace"], found["client"]) == (trace, "127.0.0.1")


async def test_credentials_that_cannot_be_sealed_take_the_session_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sealing, "_found", False)
    caplog.set_level(logging.WARNING)
    async with two(tmp_path) as (one, other):
        session = await RawSession.open(one, extra={"authorization": "Bearer abc"})
        found = []
        for port in (one, other, other, one):
            session.port = port
            found.append((await value(await session.call("count")))["generation"])
        assert found == [1, 2, 2, 3]
        open_session = await RawSession.open(one)
        for port, calls in ((one, 1), (other, 2), (one, 3)):
            open_session.port = port
            told = await value(await open_session.call("count"))
            assert (told["calls"], told["generation"]) == (calls, 1)
    said = [each for each in caplog.messages if "install the extra 'relay'" in each]
    assert said


async def answered(session: RawSession, port: int, question: Any) -> tuple[int, Any]:
    """What the answer to a question gets that is posted to this worker."""
    session.port = port
    message = {"jsonrpc": "2.0", "id": question.message["id"], "result": "ann"}
    response = await session._send(message, session.headers())
    return response.status, json.loads(await response.body())


async def test_an_answer_to_a_question_finds_its_worker_where_any_may_take_a_session_over(
    tmp_store: str,
) -> None:
    async with two_workers(tmp_store, Stateful(), session_routing="revive") as ((one, other), _):
        session = await RawSession.open(one)
        call = await session.call("ask")
        (question,) = await call.take(1)
        assert (await answered(session, other, question))[0] == 202
        assert await value(call) == "ann"
        # Whoever asks for something takes it over all the same.
        told = await value(await session.call("tell"))
        assert told["generation"] == 2


async def test_an_answer_to_what_the_session_before_asked_is_refused_and_not_swallowed(
    tmp_store: str,
) -> None:
    async with two_workers(tmp_store, Stateful(), session_routing="revive") as (ports, _):
        session = await RawSession.open(ports[0])
        call = await session.call("ask")
        (question,) = await call.take(1)
        session.port = ports[1]
        assert (await value(await session.call("tell")))["generation"] == 2
        for port in ports:
            status, body = await answered(session, port, question)
            assert (status, body["id"]) == (409, None)
            assert "before the session was brought back" in body["error"]["message"]
        call.close()


async def test_an_answer_that_cannot_be_sealed_for_its_call_is_refused_and_takes_nothing_over(
    tmp_store: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sealing, "_found", False)
    async with two_workers(tmp_store, Stateful()) as ((one, other), _):
        session = await RawSession.open(one, extra={"authorization": "Bearer abc"})
        call = await session.call("ask")
        (question,) = await call.take(1)
        status, body = await answered(session, other, question)
        assert (status, body["id"]) == (409, None)
        assert "install the extra 'relay'" in body["error"]["message"]
        assert await session.notify("notifications/cancelled", {"requestId": 1}) == 409
        assert (await answered(session, one, question))[0] == 202
        assert await value(call) == "ann"
        await until(lambda: sum("Several workers share" in each for each in caplog.messages) == 2)


async def _length(call: Call) -> None:
    """How long what it was given is, told after a word on the way."""
    await call.head()
    await call.progress(1)
    await call.result(str(len(call.request["params"]["arguments"]["text"])))


async def _sent(session: RawSession, port: int, size: int, **headers: str) -> Response:
    """A call with an argument of this size, to this worker."""
    session.port, params = port, {"name": "length", "arguments": {"text": "x" * size}}
    message = {"jsonrpc": "2.0", "id": size, "method": "tools/call", "params": params}
    return await session._send(message, session.headers(**headers))


@pytest.mark.parametrize("secret", [{}, {"authorization": "Bearer abc"}])
async def test_a_body_larger_than_most_crosses_as_far_as_an_event_may_be_large(
    tmp_store: str, secret: dict[str, str]
) -> None:
    limits = {"max_body_bytes": 100_000, "max_event_bytes": 3_000_000}
    async with two_workers(tmp_store, Scripted(length=_length), **limits) as (ports, workers):
        session = await RawSession.open(ports[0], extra=secret)
        for size in (2_000_000, 99_000):
            progress, result = await (await _sent(session, ports[1], size)).take(2)
            assert progress.progress == 1
            assert result.message["result"]["content"][0]["text"] == str(size)
        refused = await _sent(session, ports[1], 3_000_000)
        assert refused.status == 413
        assert "no more than 3000000 bytes" in (await refused.body()).decode()
        rooms = (await access_to(workers[1]).parts()).relay.rooms
        await until(lambda: not rooms._taken)
    await asyncio.get_running_loop().shutdown_default_executor()
