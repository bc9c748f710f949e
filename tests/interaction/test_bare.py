"""Nothing of ours stands between a client and an application that works: what requests get while
the store cannot be opened, when a setting is wrong, after `aclose`, and when our own code fails."""

import asyncio
import contextlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mcp_persist_middleware import (
    ClosedError,
    ConfigurationError,
    Persistence,
    PersistError,
    PersistMiddleware,
    StoreError,
)
from mcp_persist_middleware.log.record_parts import RecordSessions
from mcp_persist_middleware.persistence import access_to
from mcp_persist_middleware.store import EventLog
from mcp_persist_middleware.testing import MemoryLog, Shelf
from tests.support.scripted import Call, Message, Scripted, persisted, serving, until
from tests.support.session import RawSession
from tests.support.sse_client import request


async def two(call: Call) -> None:
    """One event, then the answer."""
    await call.head()
    await call.progress(1)
    await call.result()


class Closed(MemoryLog):
    """It takes its time and cannot be opened, until it is told that it can."""

    opened = 0

    def __init__(self, shelf: Shelf, can: Callable[[], bool], seconds: float = 0.1) -> None:
        super().__init__(shelf)
        self._can, self._seconds = can, seconds

    async def open(self, worker: str) -> None:
        Closed.opened += 1
        await asyncio.sleep(self._seconds)
        if not self._can():
            raise StoreError(url=self.name, reason="it is Sunday")
        await super().open(worker)


@pytest.fixture(autouse=True)
def none_was_opened() -> None:
    Closed.opened = 0


async def ids(response: Any) -> list[bool]:
    """Whether the events of a call have ids."""
    return [bool(frame.id) for frame in await response.take(2)]


async def health(port: int) -> int:
    """The status of a route that has nothing to do with MCP."""
    return (await request(port, "GET", "/health")).status


async def test_what_is_not_mcp_never_waits_for_the_store_nor_opens_it() -> None:
    app = PersistMiddleware(Scripted(), log=lambda _: Closed(Shelf(), lambda: False, 60.0))
    sent: list[Any] = []

    async def one() -> None:
        async def receive() -> Any:
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "GET", "path": "/health", "headers": []}
        await app(scope, receive, send)

    async with asyncio.timeout(1):
        await asyncio.gather(*(one() for _ in range(250)))
    assert [message["status"] for message in sent[::2]] == [405] * 250
    assert Closed.opened == 0


async def test_a_store_that_cannot_be_opened_is_tried_by_one_and_costs_the_feature_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    can, shelf = [False], Shelf()
    app = PersistMiddleware(
        mine := Scripted(two=two), log=lambda _: Closed(shelf, lambda: can[0]), drain_seconds=0.1
    )
    # Scripted has no lifespan, and a mounted application does not see the parent's.
    async with serving(without_lifespan(app)) as port:
        began = time.monotonic()
        sessions = await asyncio.gather(*(RawSession.open(port) for _ in range(8)))
        for session in sessions:
            assert await ids(await session.call("two")) == [False, False]
        assert time.monotonic() - began < 2
        assert Closed.opened <= 4, "not by each request in turn"
        again = await sessions[0].get("AZ-1-1-p-1-x")
        assert again.status in (200, 404, 405)
        assert len(mine.calls) == 8
        can[0] = True
        async with asyncio.timeout(10):
            while not (await ids(await (await RawSession.open(port)).call("two")))[0]:
                await asyncio.sleep(0.05)
        await app.aclose()
    said = [r.getMessage() for r in caplog.records if "it is Sunday" in r.getMessage()]
    assert len(said) == 1


async def test_a_cursor_that_cannot_be_looked_up_brings_its_client_back() -> None:
    shelf, can = Shelf(), [True]
    app = PersistMiddleware(
        Scripted(two=two), log=lambda _: Closed(shelf, lambda: can[0], 0.0), drain_seconds=0.1
    )
    async with serving(app) as port:
        session = await RawSession.open(port)
        (first, _) = await (await session.call("two")).take(2)
    can[0] = False
    other = PersistMiddleware(
        mine := Scripted(two=two), log=lambda _: Closed(shelf, lambda: can[0], 0.0)
    )
    async with serving(without_lifespan(other)) as session.port:
        replay = await session.get(first.id)
        assert replay.status == 200
        assert b"retry: " in await replay.body()
        assert not mine.requests, "the application does not hear of a cursor of ours"
        await other.aclose()


async def test_under_refuse_mcp_gets_503_and_everything_else_its_answer() -> None:
    app = PersistMiddleware(
        Scripted(two=two),
        log=lambda _: Closed(Shelf(), lambda: False, 0.0),
        on_store_failure="refuse",
    )
    async with serving(without_lifespan(app)) as port:
        assert await health(port) == 405
        params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {}}
        response = await RawSession(port).post("initialize", params)
        assert (response.status, response.headers["retry-after"]) == (503, "5")
        chat = await request(
            port,
            "POST",
            "/chat",
            headers={"content-type": "application/json", "accept": "text/event-stream"},
            body=b'{"jsonrpc": "2.0", "id": 1, "method": "message/send"}',
        )
        assert chat.status == 202, "another protocol"
        await app.aclose()


async def test_a_wrong_setting_that_no_start_has_refused_costs_mcp_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = PersistMiddleware(mine := Scripted(two=two), url="events.db", tll=5)
    async with serving(without_lifespan(app)) as port:
        assert await health(port) == 405
        seen = len(mine.requests)
        for _ in range(2):
            with pytest.raises(AssertionError):
                await RawSession.open(port)
        assert len(mine.requests) == seen
    said = [r.getMessage() for r in caplog.records if "did you mean" in r.getMessage()]
    assert len(said) == 1


@pytest.mark.parametrize("switch", ["argument", "environment"])
async def test_an_off_switch_lets_everything_pass(
    switch: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given: dict[str, Any] = {"url": str(tmp_path / "none" / "events.db")}
    if switch == "argument":
        given["enabled"] = False
    else:
        monkeypatch.setenv("MCP_PERSIST_ENABLED", "0")
    app = PersistMiddleware(Scripted(two=two), **given)
    async with serving(app) as port:
        session = await RawSession.open(port)
        assert await ids(await session.call("two")) == [False, False]
    await app.persistence.start()
    with pytest.raises(ClosedError, match="switched off"):
        await access_to(app.persistence).context()
    assert not list(tmp_path.iterdir())


class Failing(RecordSessions):
    """It fails in a way that it may not."""

    async def create(self, record: Any) -> bool:
        raise KeyError("hunter2")


class Odd(MemoryLog):
    """A store whose sessions fail, and whose streams do on request."""

    failing: set[str] = set()  # noqa: RUF012

    def __init__(self, shelf: Shelf) -> None:
        super().__init__(shelf)
        if "sessions" in self.failing:
            self.sessions = Failing(self.records)

    async def find(self, stream: bytes) -> Any:
        if "find" in self.failing:
            raise KeyError("hunter2")
        return await super().find(stream)


async def test_an_error_of_ours_before_the_application_was_called_costs_a_request_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_store: str
) -> None:
    from mcp_persist_middleware import admission

    def broken(*_: Any) -> str:
        raise ZeroDivisionError("hunter2")

    async with persisted(app := Scripted(two=two), tmp_store) as (port, _):
        session = await RawSession.open(port)
        monkeypatch.setattr(admission, "by_body", broken)
        for _ in range(2):
            assert await ids(await session.call("two")) == [False, False]
        monkeypatch.undo()
        assert len(app.calls) == 2
        assert await ids(await session.call("two")) == [True, True]
    said = [r.getMessage() for r in caplog.records if "ZeroDivisionError" in r.getMessage()]
    assert len(said) == 1
    assert "test_bare.py" in said[0], "with the place that it comes from"
    assert "hunter2" not in caplog.text


async def test_a_cursor_meets_an_error_of_a_strange_store_and_its_client_comes_back_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shelf = Shelf()
    make: Callable[[Any], EventLog] = lambda _: Odd(shelf)  # noqa: E731
    app = PersistMiddleware(Scripted(two=two), log=make, drain_seconds=0.1)
    async with serving(app) as port:
        session = await RawSession.open(port)
        frames = await (await session.call("two")).take(2)
        monkeypatch.setattr(Odd, "failing", {"find"})
        replay = await session.get(frames[0].id)
        assert replay.status == 200
        assert b"retry: " in await replay.body()
        monkeypatch.undo()
        replay = await session.get(frames[0].id)
        assert (await replay.take(1))[0].data == frames[1].data


async def test_after_aclose_no_request_opens_the_store_for_nobody(tmp_path: Path) -> None:
    persistence = Persistence(url=str(tmp_path / "events.db"), drain_seconds=0.1)
    app = PersistMiddleware(Scripted(two=two), persistence=persistence)
    async with serving(without_lifespan(app)) as port:
        session = await RawSession.open(port)
        assert await ids(await session.call("two")) == [True, True]
        await persistence.aclose()
        with pytest.raises(ClosedError, match="is closed on this event loop; start it again"):
            await persistence.ping()
        late = await RawSession.open(port)
        assert await ids(await late.call("two")) == [False, False]
        assert {path.name for path in tmp_path.iterdir()} == {"events.db"}
        async with persistence:
            await persistence.ping()
            assert await ids(await late.call("two")) == [True, True]


async def test_the_first_of_two_closes_while_the_store_is_away_and_the_lease_is_lost(
    caplog: pytest.LogCaptureFixture,
) -> None:
    shelf, can = Shelf(), [True]

    def make(_: Any) -> EventLog:
        return Closed(shelf, lambda: can[0], 0.0)

    one, other = Persistence(log=make), Persistence(log=make)
    await one.start()
    await other.start()
    context = await access_to(one).context()
    assert context is await access_to(other).context()
    can[0] = False
    context.member.lease.lose()
    await until(lambda: "There is no new lease yet" in caplog.text)
    async with asyncio.timeout(5):
        await one.aclose()
        await other.aclose()
    assert not shelf.kept("worker")


async def test_a_start_that_was_refused_is_raised_after_it_was_said(tmp_path: Path) -> None:
    app, sent = PersistMiddleware(Scripted(), url=str(tmp_path / "no" / "events.db")), []

    async def receive() -> Any:
        return {"type": "lifespan.startup"}

    async def send(message: Any) -> None:
        sent.append(message["type"])

    with pytest.raises(ConfigurationError, match="create it first"):
        await app({"type": "lifespan"}, receive, send)
    assert sent == ["lifespan.startup.failed"]


def test_a_server_that_does_not_run_asyncio_is_told_so_and_what_to_choose(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As trio runs it, as far as the library can tell."""
    app = PersistMiddleware(Scripted(two=two), url=f"sqlite+aiosqlite:///{tmp_path / 'e.db'}")
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    def run(scope: Message, message: Message) -> None:
        async def receive() -> Message:
            return message

        with contextlib.suppress(StopIteration):
            app(scope, receive, send).send(None)

    with pytest.raises(PersistError, match="asyncio"):
        run({"type": "lifespan"}, {"type": "lifespan.startup"})
    assert [(each["type"], "--worker-class asyncio" in each["message"]) for each in sent] == [
        ("lifespan.startup.failed", True)
    ]
    # Where a server goes on without a lifespan, so does the application.
    body = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    head = [(b"mcp-protocol-version", b"2025-11-25"), (b"content-type", b"application/json")]
    for path in ("/mcp", "/health", "/mcp"):
        sent.clear()
        scope = {"type": "http", "method": "POST", "path": path, "headers": head}
        run(scope, {"type": "http.request", "body": json.dumps(body).encode()})
        assert [each.get("status") for each in sent] == [202, None]
    said = [each.getMessage() for each in caplog.records if "without" in each.getMessage()]
    assert [("--worker-class asyncio" in each, "File" in each) for each in said] == [(True, False)]


def without_lifespan(app: Any) -> Any:
    """What a mounted application sees: requests alone."""

    async def mounted(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            raise NotImplementedError
        await app(scope, receive, send)

    return mounted
