"""What an operator sees: spans that link, numbers that add up, and no secret anywhere."""

import asyncio
import logging
import sqlite3
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode

from mcp_persist_middleware import ConfigurationError, Persistence, PersistMiddleware, StoreError
from mcp_persist_middleware import telemetry as instruments
from mcp_persist_middleware.model import Place
from mcp_persist_middleware.persistence import access_to
from mcp_persist_middleware.protocol import classify, jsonrpc
from mcp_persist_middleware.streams.exchange_report import UNREPORTED, ExchangeReports
from mcp_persist_middleware.telemetry.bounded import BoundedValues
from mcp_persist_middleware.telemetry.instrument import BOUNDED
from tests.guarantees.test_g10_sessions import two_workers
from tests.interaction.test_rerun import left_behind
from tests.multiworker.stateful_app import tenant
from tests.support.measured import Telemetry
from tests.support.scripted import Call, Scripted, persisted, serving, until
from tests.support.session import MODERN, RawSession, last_id
from tests.support.stateful import Stateful

SECRETS = {
    "authorization": "Bearer tok-SECRET",
    "cookie": "id=cookie-SECRET",
    "x-api-key": "key-SECRET",
}
PAYLOAD = "payload-SECRET"


async def two(call: Call) -> None:
    await call.head()
    await call.progress(1, PAYLOAD)
    await call.result(PAYLOAD)


async def crash(call: Call) -> None:
    await call.head()
    await call.progress(1, PAYLOAD)
    raise RuntimeError("the tool broke")


async def test_a_resume_is_a_span_that_links_to_the_request_it_goes_on_with(
    tmp_store: str, telemetry: Telemetry
) -> None:
    tracer = trace.get_tracer("tests")
    app = Scripted(two=two)

    async def traced(scope: Any, receive: Any, send: Any) -> None:
        with tracer.start_as_current_span(f"outer {scope.get('method')}"):
            await middleware(scope, receive, send)

    persistence = Persistence(url=tmp_store)
    middleware = PersistMiddleware(app, persistence=persistence)
    async with persistence, serving(traced) as port:
        session = await RawSession.open(port)
        telemetry._spans.clear()
        frames = await (await session.call("two")).take(2)
        await (await session.get(frames[0].id)).body()
    (call,) = [span for span in telemetry.spans if span.name == "tools/call two"]
    (replay,) = [span for span in telemetry.spans if span.name == "mcp_persist.replay"]
    assert replay.instrumentation_scope.version == instruments.VERSION != "0.0.0"
    assert [link.context.span_id for link in replay.links] == [call.context.span_id]
    (outer,) = [span for span in telemetry.spans if span.name == "outer GET"]
    assert replay.parent is not None
    assert replay.parent.span_id == outer.context.span_id


async def test_the_instruments_count_what_has_happened(
    tmp_store: str, telemetry: Telemetry
) -> None:
    async with persisted(Scripted(two=two), tmp_store) as (port, opened):
        session = await RawSession.open(port)
        # The answer to `initialize` may be here before its commit.
        live = (await access_to(opened).context()).writer.live
        await until(lambda: not live)
        events = telemetry.counted("events")
        frames = await (await session.call("two")).take(2)
        await until(lambda: telemetry.counted("events") - events == 2)
        await (await session.get(frames[0].id)).body()
        await (await session.get(last_id(frames))).body()
    assert telemetry.counted("resumes") == 2
    assert telemetry.counted("replayed.events") == 1
    assert telemetry.counted("commit.duration") == telemetry.counted("batch.events") > 0
    assert telemetry.counted("event.bytes") > len(PAYLOAD)
    # What goes up comes down.
    for gauge in ("streams.open", "readers", "exchanges.detached"):
        assert telemetry.counted(gauge) == 0, gauge


async def test_no_secret_reaches_a_log_a_span_a_metric_or_an_error(
    tmp_path: Path, tmp_store: str, telemetry: Telemetry, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="mcp_persist_middleware")
    async with persisted(Scripted(two=two, crash=crash), tmp_store) as (port, _):
        session = await RawSession.open(port, extra=SECRETS)
        for tool in ("two", "crash"):
            frames = await (await session.call(tool)).take(2)
            await (await session.get(frames[0].id)).body()
        await (await session.get("garbage-SECRET")).body()
        # A statement that fails is not shown with its parameters.
        with sqlite3.connect(tmp_path / "events.db") as outside:
            outside.execute("DROP TABLE mcp_event")
        await (await session.call("two")).take(2)
        # One that SQLAlchemy reports has the body of initialize among its parameters.
        with sqlite3.connect(tmp_path / "events.db") as outside:
            outside.execute("DROP TABLE mcp_session")
        hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": SECRETS}
        await (await RawSession(port, extra=SECRETS).post("initialize", hello)).body()
    exported = telemetry.text() + caplog.text
    assert "SECRET" not in exported
    assert session.session_id is not None
    assert session.session_id not in exported
    assert "the tool broke" in caplog.text
    assert caplog.text.count("no such table") >= 2


async def test_what_a_namespace_does_is_counted_for_it_alone(
    tmp_store: str, telemetry: Telemetry
) -> None:
    async with persisted(Scripted(two=two, crash=crash), tmp_store, namespace=tenant) as (port, _):
        for name in ("ann-metrics", "bob-metrics"):
            session = await RawSession.open(port, extra={"x-tenant": name})
            frames = await (await session.call("two")).take(2)
            await (await session.get(frames[0].id)).body()
            await (await session.call("crash")).body()
    for counter in ("events", "event.bytes", "resumes", "sessions", "streams.interrupted"):
        assert {"ann-metrics", "bob-metrics"} <= set(telemetry.by_namespace(counter)), counter


async def test_what_retention_removes_is_counted_for_its_namespace(
    tmp_store: str, telemetry: Telemetry
) -> None:
    keeping = {"ttl": 0, "purge_interval": 0.1, "namespace": tenant}
    calls = {"ann-purged": 1, "bob-purged": 3}
    # Each has a stream for `initialize`, of one event, and one for each call, of two.
    streams = {name: 1 + count for name, count in calls.items()}
    numbers = {name: 1 + 2 * count for name, count in calls.items()}

    def removed() -> list[dict[str, float]]:
        counters = [telemetry.by_namespace(f"purged.{what}") for what in ("streams", "events")]
        return [{name: counted.get(name, 0) for name in calls} for counted in counters]

    async with persisted(Scripted(two=two), tmp_store, **keeping) as (port, _):
        for name, count in calls.items():
            session = await RawSession.open(port, extra={"x-tenant": name})
            for _ in range(count):
                await (await session.call("two")).take(2)
        await until(lambda: sum(removed()[1].values()) >= sum(numbers.values()))
        await until(lambda: sum(removed()[0].values()) >= sum(streams.values()))
    assert removed() == [streams, numbers]


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://ann:url-SECRET@127.0.0.1:1/db",
        "nonsense://ann:url-SECRET@127.0.0.1:port/db",
        "sqlite+aiosqlite://ann:url-SECRET@/no/such/directory/events.db",
    ],
)
async def test_the_password_in_a_url_is_in_no_error(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises((ConfigurationError, StoreError)) as raised:
        async with Persistence(url=url):
            pass
    error: BaseException | None = raised.value
    while error is not None:
        assert "SECRET" not in f"{error} {error!r} {getattr(error, 'fields', '')}"
        error = error.__cause__ if not error.__suppress_context__ else None
    assert "SECRET" not in caplog.text


async def test_no_more_namespaces_are_told_apart_than_may(
    tmp_store: str, telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BOUNDED, "namespace", BoundedValues(most=3))

    async def one(call: Call) -> None:
        await call.head()
        await call.result()

    async with persisted(Scripted(one=one), tmp_store, namespace=tenant) as (port, _):
        before = sum(telemetry.by_namespace("events").values())
        for number in range(8):
            session = await RawSession.open(port, extra={"x-tenant": f"many-{number}"})
            await (await session.call("one")).take(1)
        await until(lambda: sum(telemetry.by_namespace("events").values()) >= before + 16)
        found = {name for name in telemetry.by_namespace("events") if "many" in name}
        assert len(found) == 3
        assert telemetry.by_namespace("events")["_OTHER"] == 10


def exchange(telemetry: Telemetry, name: str) -> Any:
    (found,) = [span for span in telemetry.spans if span.name == name]
    return found


async def test_an_exchange_is_a_span_of_the_trace_that_the_request_itself_carries(
    tmp_store: str, telemetry: Telemetry
) -> None:
    inside: list[Any] = []

    async def looks(call: Call) -> None:
        inside.append(trace.get_current_span().get_span_context().span_id)
        await call.head()
        await call.result()

    tracer = trace.get_tracer("tests")

    async def traced(scope: Any, receive: Any, send: Any) -> None:
        with tracer.start_as_current_span(f"http {scope.get('method')}"):
            await middleware(scope, receive, send)

    persistence = Persistence(url=tmp_store)
    middleware = PersistMiddleware(Scripted(looks=looks), persistence=persistence)
    client = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    async with persistence, serving(traced) as port:
        session = await RawSession.open(port)
        telemetry._spans.clear()
        params = {"name": "looks", "arguments": {}, "_meta": {"traceparent": client}}
        await (await session.post("tools/call", params)).body()
        await until(lambda: "http POST" in [span.name for span in telemetry.spans])
    found, http = exchange(telemetry, "tools/call looks"), exchange(telemetry, "http POST")
    assert inside == [found.context.span_id]
    assert f"{found.parent.trace_id:032x}-{found.parent.span_id:016x}" == client[3:-3]
    assert [link.context.span_id for link in found.links] == [http.context.span_id]
    assert dict(found.attributes) == {
        "mcp.method.name": "tools/call",
        "gen_ai.tool.name": "looks",
        "gen_ai.operation.name": "execute_tool",
        "mcp.protocol.version": "2025-11-25",
        "jsonrpc.request.id": "2",
        "network.protocol.name": "http",
        "network.protocol.version": "1.1",
        "network.transport": "tcp",
        "mcp_persist.outcome": "ok",
        "mcp_persist.worker": found.attributes["mcp_persist.worker"],
    }
    assert found.kind is SpanKind.SERVER
    assert found.status.status_code is StatusCode.UNSET


async def test_how_an_exchange_failed_is_told_by_the_conventions(
    tmp_store: str, telemetry: Telemetry
) -> None:
    async def wrong(call: Call) -> None:
        await call.head()
        error = {"code": -32602, "message": PAYLOAD}
        await call.emit({"id": call.request["id"], "error": error})
        await call.end()

    async def fails(call: Call) -> None:
        await call.head()
        await call.emit({"id": call.request["id"], "result": {"content": [], "isError": True}})
        await call.end()

    before = telemetry.counted("mcp.server.operation.duration")
    async with persisted(Scripted(wrong=wrong, fails=fails), tmp_store) as (port, _):
        session = await RawSession.open(port)
        for tool in ("wrong", "fails"):
            await (await session.call(tool)).body()
    found = exchange(telemetry, "tools/call wrong")
    said = {"error.type": "-32602", "rpc.response.status_code": "-32602"}
    assert said.items() <= dict(found.attributes).items()
    assert found.status.status_code is StatusCode.ERROR
    found = exchange(telemetry, "tools/call fails")
    assert found.attributes["error.type"] == "tool_error"
    assert telemetry.counted("mcp.server.operation.duration") - before == 3
    points = telemetry.points("mcp.server.operation.duration")
    common = {"mcp.method.name": "tools/call", "gen_ai.tool.name": "wrong", **said}
    assert any(common.items() <= point.items() for point in points)
    assert PAYLOAD not in telemetry.text()


async def test_who_calls_tools_that_there_are_not_makes_no_metric_of_each(
    tmp_store: str, telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BOUNDED, "gen_ai.tool.name", BoundedValues())

    class Every(dict[str, Any]):
        def __missing__(self, name: str) -> Any:
            async def unknown(call: Call) -> None:
                await call.head()
                result = {"content": [{"type": "text", "text": "no such tool"}], "isError": True}
                await call.emit({"id": call.request["id"], "result": result})
                await call.end()

            return unknown

    app = Scripted()
    app.tools = Every(two=two)
    async with persisted(app, tmp_store) as (port, _):
        session = await RawSession.open(port)
        for number in range(30):
            await (await session.call(f"made-up-{number}")).body()
        await (await session.call("two")).body()
    points = telemetry.points("mcp.server.operation.duration")
    named = {point.get("gen_ai.tool.name", "") for point in points}
    assert len([name for name in named if name.startswith("made-up-")]) == 20
    assert {"_OTHER", "two"} <= named
    assert len({span.name for span in telemetry.spans if "made-up" in span.name}) == 20


async def test_an_exchange_whose_worker_is_gone_has_its_end_in_its_trace(
    tmp_store: str, telemetry: Telemetry
) -> None:
    async with two_workers(tmp_store, Scripted()) as (ports, both):
        write, cursor = left_behind()
        assert write.create is not None
        trace_id, span_id = f"{7:032x}", f"{9:016x}"
        record = replace(write.create, trace=f"00-{trace_id}-{span_id}-01")
        await (await access_to(both[0]).context()).log.append([replace(write, create=record)])
        await (await RawSession(ports[0], MODERN).get(cursor)).body()
        await until(lambda: any(s.name == "mcp_persist.interrupted" for s in telemetry.spans))
    found = exchange(telemetry, "mcp_persist.interrupted")
    assert (found.context.trace_id, found.parent.span_id) == (7, 9)
    assert found.attributes["mcp_persist.outcome"] == "interrupted"


async def test_gauges_show_what_the_workers_of_a_process_have(
    tmp_store: str, telemetry: Telemetry
) -> None:
    async with persisted(Scripted(two=two), tmp_store) as (port, _):
        await RawSession.open(port)
        for name in ("queue.events", "commit.lag", "heartbeat.age"):
            assert telemetry.points(f"mcp_persist.{name}") == [{}]


async def test_lines_of_the_log_are_counted_by_their_codes(
    tmp_store: str, telemetry: Telemetry
) -> None:
    async with persisted(Scripted(crash=crash), tmp_store) as (port, _):
        session = await RawSession.open(port)
        for _ in range(3):
            await (await session.call("crash")).body()
        await until(lambda: telemetry.counted("errors") >= 3)
    assert {"code": "MPM-APP-01"} in telemetry.points("mcp_persist.errors")


async def test_codecs_are_measured(tmp_store: str, telemetry: Telemetry) -> None:
    settings = {"compression": "gzip", "compress_min_bytes": 1}
    async with persisted(Scripted(two=two), tmp_store, **settings) as (port, _):
        session = await RawSession.open(port)
        await (await session.call("two")).body()
    sides = {each["side"] for each in telemetry.points("mcp_persist.codec.bytes")}
    assert sides == {"plain", "stored"}
    assert telemetry.counted("codec.duration") > 0


async def test_a_session_has_lasted_from_its_beginning_on_whichever_worker_it_ends(
    tmp_store: str, telemetry: Telemetry
) -> None:
    async with persisted(Stateful(), tmp_store, drain_seconds=0.1) as (port, _):
        session = await RawSession.open(port)
        began = time.monotonic()
    async with persisted(Stateful(), tmp_store) as (port, _):
        session.port = port
        await (await session.call("count")).body()
        await asyncio.sleep(max(0.0, began + 1.0 - time.monotonic()))
        assert await session.delete() == 200
        assert telemetry.counted("mcp.server.session.duration") == 1
    (point,) = telemetry.values("mcp.server.session.duration")
    assert 1.0 <= point.sum < 30
    said = {"mcp.protocol.version": "2025-11-25", "mcp_persist.end": "deleted"}
    assert said.items() <= dict(point.attributes).items()


async def test_a_reader_on_another_worker_is_seen_to_be_late_and_the_call_to_be_unread(
    tmp_store: str, telemetry: Telemetry
) -> None:
    go = asyncio.Event()

    async def waits(call: Call) -> None:
        await call.head()
        await call.progress(1)
        await go.wait()
        await call.result()

    async with two_workers(tmp_store, Scripted(waits=waits)) as (ports, both):
        home, other = [await access_to(each).context() for each in both]
        session = await RawSession.open(ports[0])
        response = await session.call("waits")
        frames = await response.take(1)
        response.reset()
        await until(lambda: not any(each.readers for each in home.writer.live.values()))
        session.port = ports[1]
        again = await session.get(last_id(frames))
        # It has read what there is, and waits for a stream that is written elsewhere.
        await until(lambda: home.writer.live.keys() & set(other.log.wakeups._subscriptions))
        go.set()
        await again.body()
        assert telemetry.counted("reader.lag") == 1
        relayed = await session.call("waits")
        await relayed.body()
        assert telemetry.counted("relay.duration") == 1
    first, second = [span for span in telemetry.spans if span.name == "tools/call waits"]
    assert [event.name for event in first.events][:2] == ["mcp_persist.read", "mcp_persist.unread"]
    workers = [span.attributes["mcp_persist.worker"] for span in (first, second)]
    (replay,) = [span for span in telemetry.spans if span.name == "mcp_persist.replay"]
    assert workers[0] == workers[1] != replay.attributes["mcp_persist.worker"]


def test_of_an_exchange_that_nobody_measures_nothing_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    call = jsonrpc.parse(b'{"jsonrpc":"2.0","id":1,"method":"ping"}')
    request = classify.Request(classify.RequestKind.EXCHANGE, call=call)
    reports, scope = ExchangeReports(), {"headers": []}
    monkeypatch.setattr(instruments, "is_there", lambda: False)
    assert reports.begin(request, Place("default", "/mcp"), scope) is UNREPORTED
    reports.listen(lambda _: None)
    assert reports.begin(request, Place("default", "/mcp"), scope) is not UNREPORTED
