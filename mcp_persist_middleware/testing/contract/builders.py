"""Streams, sessions and relayed requests as the contract's tests write them."""

import asyncio
import contextlib
import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mcp_persist_middleware.protocol import sse
from mcp_persist_middleware.protocol.event_id import new_stream_id
from mcp_persist_middleware.store import (
    Ending,
    Event,
    EventKind,
    EventLog,
    Outcome,
    Owner,
    Polling,
    RelayRequest,
    SessionKey,
    SessionRecord,
    StreamKind,
    StreamRecord,
    StreamState,
    StreamWrite,
    Subscription,
)

Factory = Callable[[], EventLog]
"""Makes logs on one and the same store, none of them open."""

COMMITTED, FENCED, REJECTED = Outcome.COMMITTED, Outcome.FENCED, Outcome.REJECTED
ALL = (1 << 20, 1 << 30)
"""A page without a bound."""

NOW = time.time()
KEY = SessionKey("default", "/mcp", "s")
_WOKEN_SECONDS = 20.0


def record(
    *, session: str = "s", path: str = "/mcp", worker: str = "one", namespace: str = "default"
) -> StreamRecord:
    """A new open stream."""
    return StreamRecord(
        id=new_stream_id(),
        kind=StreamKind.POST,
        owner=Owner(namespace, path, session, "ann"),
        epoch=1,
        state=StreamState.OPEN,
        last_sequence=0,
        worker=worker,
        created_at=1000.5,
        ended_at=None,
        expires_at=None,
        request_ids="[1]",
        trace="00-aa-bb-01",
    )


def events(
    first: int, count: int, *, epoch: int = 1, kind: EventKind = EventKind.MESSAGE
) -> tuple[Event, ...]:
    """Consecutive events whose frames tell them apart."""
    return tuple(
        Event(n, epoch, kind, b"data: %d.%d\r\n" % (epoch, n)) for n in range(first, first + count)
    )


def ending(last: int, *, expires_at: float = 2000.0) -> Ending:
    """The regular end of a stream."""
    return Ending(StreamState.COMPLETE, last, 1500.0, expires_at)


def new(stream: StreamRecord, *written: Event, **more: Any) -> StreamWrite:
    """The entry that begins a stream."""
    return StreamWrite(stream.id, stream.epoch, create=stream, events=written, **more)


def add(stream: StreamRecord, *written: Event, epoch: int = 1, **more: Any) -> StreamWrite:
    """An entry of a stream that is there."""
    return StreamWrite(stream.id, epoch, events=written, **more)


async def numbers(log: EventLog, stream: StreamRecord, after: int = 0) -> list[int]:
    """The numbers of all events that the store has of a stream."""
    return [event.sequence for event in await log.read(stream.id, after, *ALL)]


def answer(number: int, request_id: Any) -> Event:
    """The application's answer to a request."""
    message = {"jsonrpc": "2.0", "id": request_id, "result": {}}
    return Event(number, 1, EventKind.RESPONSE, sse.event(json.dumps(message).encode()))


def session(name: str = "s", *, path: str = "/mcp", expires_at: float = 2000.0) -> SessionRecord:
    """A new session."""
    return SessionRecord(
        key=SessionKey("default", path, name),
        principal="ann",
        version="2025-11-25",
        initialize=b'{"method":"initialize"}',
        generation=1,
        home="one",
        expires_at=expires_at,
    )


async def begin_session(log: EventLog, key: SessionKey = KEY, home: str = "one") -> None:
    """A session at home on a worker, and workers who look for relayed requests."""
    record = SessionRecord(
        key=key,
        principal="",
        version="2025-11-25",
        initialize=b"{}",
        generation=1,
        home=home,
        expires_at=time.time() + 60,
    )
    assert await log.sessions.create(record)
    for worker in ("one", "two"):
        assert await log.inbox.claim(worker, 1, NOW, NOW + 60) == []


def relayed(*, worker: str = "one", generation: int = 1, **more: Any) -> RelayRequest:
    """A request for the session."""
    made = RelayRequest(new_stream_id(), KEY, worker, generation, NOW + 10, b"please", sealed=False)
    return dataclasses.replace(made, **more)


async def claim(log: EventLog, worker: str, now: float = NOW) -> list[RelayRequest]:
    """Everything that waits for a worker."""
    return await log.inbox.claim(worker, 100, now, time.time() + 60)


@contextlib.contextmanager
def subscribed(log: EventLog, stream: StreamRecord) -> Iterator[Subscription]:
    """A place among the readers of a stream."""
    if isinstance(log.wakeups, Polling):
        pytest.skip("a log without wake-ups: its readers look by themselves")
    subscription = log.wakeups.subscribe(stream.id)
    # Longer than any test takes: what returns sooner has been woken.
    subscription.patience = 3600
    try:
        yield subscription
    finally:
        subscription.close()


async def settle(subscription: Subscription) -> None:
    """Let the wake-ups pass that every subscription begins with."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.1):
            while True:
                await subscription.wait()


async def woken(subscription: Subscription) -> None:
    """Return when a subscription has been woken.

    Raises:
        TimeoutError: nobody wakes it.
    """
    async with asyncio.timeout(_WOKEN_SECONDS):
        await subscription.wait()
