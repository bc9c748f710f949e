"""How payloads are written: every store, whatever the settings were when a row was written."""

import contextlib
import dataclasses
import json
import os
import threading
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import redis
from sqlalchemy import text

from mcp_persist_middleware.errors import ConfigurationError, StoreError
from mcp_persist_middleware.log.base import EventLog
from mcp_persist_middleware.log.codecs import chain, coded
from mcp_persist_middleware.log.codecs.chain import Bound, Chain
from mcp_persist_middleware.log.codecs.coded import CodedLog
from mcp_persist_middleware.log.codecs.compression import has_zstd
from mcp_persist_middleware.log.cursor import Cursor
from mcp_persist_middleware.log.reads import Reads
from mcp_persist_middleware.model import (
    EnqueueResult,
    Event,
    EventKind,
    RelayRequest,
    RelayState,
    StreamRecord,
)
from mcp_persist_middleware.protocol.event_id import new_stream_id
from mcp_persist_middleware.settings import Settings
from mcp_persist_middleware.testing.contract.builders import (
    ALL,
    COMMITTED,
    add,
    ending,
    events,
    new,
    record,
    session,
)
from tests.contract.test_unreadable import named
from tests.support.stores import Store

KEYS = {"new": os.urandom(32), "old": os.urandom(32)}
OLD = {"old": KEYS["old"]}
TEXT = b"data: " + b'{"jsonrpc":"2.0","method":"notifications/message"}' * 40 + b"\r\n\r\n"
needs_zstd = pytest.mark.skipif(not has_zstd(), reason="needs the extra zstd")
SETTINGS: list[Any] = [
    pytest.param({}, id="plain"),
    pytest.param({"compression": "gzip"}, id="gzip"),
    pytest.param({"compression": "zstd"}, id="zstd", marks=needs_zstd),
    pytest.param({"encryption_keys": KEYS}, id="encrypted"),
    pytest.param({"compression": "gzip", "encryption_keys": KEYS}, id="gzip-encrypted"),
]
Open = Callable[..., Any]


@pytest.fixture
async def open_log(store: Store) -> AsyncIterator[Open]:
    """Opens a worker's log on the store, with settings of its own."""
    opened: list[EventLog] = []

    async def open_one(**given: Any) -> EventLog:
        settings = Settings.load({"url": "not asked"} | given, {})
        log = CodedLog(store.make_log(), settings)
        await log.open(f"worker-{len(opened)}")
        opened.append(log)
        return log

    yield open_one
    for log in reversed(opened):
        await log.aclose()


def frames(first: int, count: int, kind: EventKind = EventKind.MESSAGE) -> tuple[Event, ...]:
    """Events that become smaller, and tell themselves apart."""
    return tuple(Event(n, 1, kind, b": %d\r\n" % n + TEXT) for n in range(first, first + count))


@pytest.mark.parametrize("given", SETTINGS)
async def test_what_is_written_is_read_again_by_every_worker(
    open_log: Open, given: dict[str, Any]
) -> None:
    log, other = await open_log(**given), await open_log(**given)
    stream = record()
    written = (*events(1, 3), *frames(4, 3))
    assert await log.append([new(stream, *written[:2])]) == [COMMITTED]
    assert await log.append([add(stream, *written[2:])]) == [COMMITTED]
    assert await log.append([add(stream, *written[2:])]) == [COMMITTED], "it is a retry"
    for worker in (log, other):
        assert tuple(await worker.read(stream.id, 0, *ALL)) == written
    assert await log.append([add(stream, ending=ending(6))]) == [COMMITTED]
    assert tuple(await other.read(stream.id, 2, *ALL)) == written[2:]


async def test_rows_of_any_settings_are_read_together(open_log: Open) -> None:
    stream = record()
    written: tuple[Event, ...] = ()
    for given in ({}, {"compression": "gzip"}, {"encryption_keys": OLD}, {"encryption_keys": KEYS}):
        log = await open_log(**given)
        more = frames(len(written) + 1, 2)
        added = add(stream, *more) if written else new(stream, *more)
        assert await log.append([added]) == [COMMITTED]
        written += more
    last = await open_log(encryption_keys=KEYS)
    assert tuple(await last.read(stream.id, 0, *ALL)) == written


async def test_a_page_is_bounded_by_what_comes_out_of_it(open_log: Open) -> None:
    log = await open_log(compression="gzip")
    stream = record()
    await log.append([new(stream, *frames(1, 10))])
    size = len(frames(1, 1)[0].frame)
    page = await log.read(stream.id, 0, 100, 3 * size)
    assert [event.sequence for event in page] == [1, 2, 3]
    assert [event.sequence for event in await log.read(stream.id, 3, 100, 1)] == [4]


async def test_large_payloads_are_encoded_and_decoded_beside_the_event_loop(
    open_log: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coded, "_LARGE", 100)
    names: set[str] = set()
    for name in ("encode", "decode"):
        plain = getattr(Chain, name)

        def noting(self: Chain, *given: Any, plain: Any = plain) -> Any:
            names.add(threading.current_thread().name.rpartition("_")[0])
            return plain(self, *given)

        monkeypatch.setattr(Chain, name, noting)
    log = await open_log(encryption_keys=KEYS)
    stream = record()
    await log.append([new(stream, *frames(1, 1))])
    assert tuple(await log.read(stream.id, 0, *ALL)) == frames(1, 1)
    assert names == {"mcp-persist-codecs"}


async def answered(log: EventLog) -> StreamRecord:
    """A stream that has ended: two events, and the answer."""
    stream = record()
    answer = Event(3, 1, EventKind.RESPONSE, TEXT)
    await log.append([new(stream, *frames(1, 2), answer, ending=ending(3))])
    return stream


async def seen(log: EventLog, stream: StreamRecord) -> tuple[list[int], int, bytes]:
    """What a reader gets: the numbers, how many are missing, and the last frame."""
    cursor = Cursor(Reads(log), stream.id, 0, None, resumed=True)
    found, missing, last = [], 0, b""
    while True:
        page = await cursor.next()
        found += [event.sequence for event in page.events]
        last = page.events[-1].frame if page.events else last
        missing += page.missing
        if page.ended:
            cursor.close()
            return found, missing, last


@pytest.mark.parametrize("given", [{}, {"encryption_keys": OLD}])
async def test_without_its_key_a_stream_is_a_gap_and_its_answer_an_error_and_others_are_read(
    open_log: Open, given: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    log = await open_log(encryption_keys={"new": KEYS["new"]})
    stream = await answered(log)
    late = await open_log(**given)
    found, missing, last = await seen(late, stream)
    assert (found, missing) == ([3], 2)
    message = json.loads(last.split(b"data: ")[1])
    assert message["id"] == 1
    assert "cannot be read" in message["error"]["message"]
    reason = "'new' is not among encryption_keys" if given else "there are no encryption_keys"
    assert reason in caplog.text
    beside = await answered(late)
    assert await seen(late, beside) == ([1, 2, 3], 0, TEXT)


async def test_a_key_of_the_same_name_that_is_another_one_reads_nothing(open_log: Open) -> None:
    stream = await answered(await open_log(encryption_keys={"new": KEYS["new"]}))
    late = await open_log(encryption_keys={"new": KEYS["old"]})
    found, missing, last = await seen(late, stream)
    assert (found, missing) == ([3], 2)
    assert b"cannot be read" in last


async def put(store: Store, where: str, payload: bytes) -> None:
    """Change a row behind everybody's back."""
    async with store.connected() as outside:
        changed = text(f"UPDATE mcp_event SET payload = :payload WHERE {where}")
        await outside.execute(changed, {"payload": payload})


in_sql = pytest.mark.parametrize("store", ["sqlite", "postgres"], indirect=True)


def of(stream: StreamRecord, store: Store) -> str:
    """The condition for a stream's events."""
    return f"stream = {named(stream, 'sqlite' if 'sqlite' in store.url else 'postgresql')}"


@in_sql
@pytest.mark.parametrize("between", ["streams", "numbers"])
async def test_rows_that_were_swapped_are_not_read_in_each_others_place(
    open_log: Open, store: Store, between: str
) -> None:
    log = await open_log(encryption_keys=KEYS)
    one, two = await answered(log), await answered(log)
    first = f"{of(one, store)} AND sequence = 1"
    second = f"{of(two, store)} AND sequence = 1"
    if between == "numbers":
        second = f"{of(one, store)} AND sequence = 2"
    ((a,),) = await store.rows(f"SELECT payload FROM mcp_event WHERE {first}")
    ((b,),) = await store.rows(f"SELECT payload FROM mcp_event WHERE {second}")
    await put(store, first, b)
    await put(store, second, a)
    found, missing, last = await seen(log, one)
    assert (found, missing, last) == (([2, 3], 1, TEXT) if between == "streams" else ([3], 2, TEXT))


@in_sql
@pytest.mark.parametrize("given", SETTINGS[1:])
@pytest.mark.parametrize("at", [0, 3, 5, 25, -1])
async def test_a_bit_that_flipped_is_one_events_gap(
    open_log: Open, store: Store, given: dict[str, Any], at: int
) -> None:
    log = await open_log(**given)
    stream = await answered(log)
    where = f"{of(stream, store)} AND sequence = 2"
    ((payload,),) = await store.rows(f"SELECT payload FROM mcp_event WHERE {where}")
    broken = bytearray(payload)
    broken[at] ^= 1
    await put(store, where, bytes(broken))
    found, missing, last = await seen(log, stream)
    if (found, missing) == ([1, 2, 3], 0):
        # A bit that says nothing of the content: gzip's head holds a time and a system.
        assert "encryption_keys" not in given
        assert tuple(await log.read(stream.id, 1, 1, 1)) == frames(2, 1)
    else:
        assert (found, missing, last) == ([1, 3], 1, TEXT)


async def test_a_small_row_that_says_it_is_large_brings_no_large_thing_into_memory() -> None:
    bomb, small = (zlib.compress(bytes(size), 9, 31) for size in (64 << 20, 100))
    for told, packed in ((100, bomb), ((1 << 32) - 1, small)):
        payload = told.to_bytes(4, "big") + packed
        tracemalloc.start()
        with pytest.raises(ValueError, match="damaged"):
            plain().decode(1, payload, Bound(b"", b""))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
        tracemalloc.stop()


def plain() -> Chain:
    """A chain that leaves what is written as it is."""
    return Chain(Settings.load({"url": "x"}, {}))


def test_nothing_that_is_encrypted_is_there_in_the_clear_or_twice_the_same() -> None:
    made = Chain(Settings.load({"url": "x", "encryption_keys": KEYS}, {}))
    bound = Bound(b"stream", b"1")
    one, two = made.encode(TEXT, bound), made.encode(TEXT, bound)
    assert one != two
    assert b"jsonrpc" not in one[1]
    assert one[0] == chain.cipher.AES_GCM


async def test_sessions_requests_requests_and_replies_are_encrypted_too(
    open_log: Open, store: Store
) -> None:
    log, stranger = await open_log(encryption_keys=KEYS), await open_log(encryption_keys=OLD)
    one = session("one", expires_at=9e9)
    assert await log.sessions.create(one)
    assert await log.sessions.find(one.key) == one
    with pytest.raises(StoreError, match="'new' is not among encryption_keys"):
        await stranger.sessions.find(one.key)
    stream = record(worker="gone")
    kept = dataclasses.replace(stream, request=TEXT)
    assert await log.append([new(kept)]) == [COMMITTED]
    assert await log.find(kept.id) == kept
    assert await log.open_streams_of("gone", 9) == [kept]
    found = await stranger.find(kept.id)
    assert found is not None
    assert found.request is None
    relayed = RelayRequest(new_stream_id(), one.key, one.home, 1, 9e9, TEXT, sealed=False)
    assert await log.inbox.put(relayed, 9) is EnqueueResult.ENQUEUED
    if "url" in store.settings:
        rows = await store.rows("SELECT content FROM mcp_inbox")
        rows += await store.rows("SELECT initialize FROM mcp_session")
        rows += await store.rows("SELECT request FROM mcp_stream")
        assert all(b"jsonrpc" not in bytes(value) for (value,) in rows)
    assert [each.content for each in await log.inbox.claim(one.home, 9, 0.0, 9e9)] == [TEXT]
    assert await log.inbox.answer(relayed.id, one.home, TEXT, 9e9)
    told = await log.inbox.look(relayed.name)
    assert told is not None
    assert (told.state, told.reply) == (RelayState.REPLIED, TEXT)
    with pytest.raises(StoreError, match="not among"):
        await stranger.inbox.look(relayed.name)


async def test_keeping_the_same_key_under_another_stream_is_no_way_around(open_log: Open) -> None:
    log = await open_log(encryption_keys=KEYS)
    one, two = session("one", expires_at=9e9), session("two", expires_at=9e9)
    await log.sessions.create(one)
    bare = log.inner.sessions  # type: ignore[attr-defined]
    stolen = await bare.find(one.key)
    await bare.create(dataclasses.replace(two, initialize=stolen.initialize))
    with pytest.raises(StoreError, match="another's place"):
        await log.sessions.find(two.key)


@pytest.mark.parametrize(
    ("given", "module", "package"),
    [
        ({"compression": "zstd"}, "compression._zstd", "zstd"),
        ({"encryption_keys": KEYS}, "cipher._found", "crypto"),
    ],
)
def test_a_package_that_is_missing_is_named_at_the_start(
    given: dict[str, Any], module: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"mcp_persist_middleware.log.codecs.{module}", None)
    with pytest.raises(ConfigurationError, match=rf"install the extra .*\[{package}\]"):
        Chain(Settings.load({"url": "x"} | given, {}))


@pytest.mark.parametrize("store", ["sqlite+redis"], indirect=True)
async def test_redis_sees_no_more_of_it_than_sql(open_log: Open, store: Store) -> None:
    log = await open_log(encryption_keys=KEYS)
    stream = record()
    await log.append([new(stream)])
    await log.append([add(stream, *frames(1, 2))])
    with contextlib.closing(redis.Redis.from_url(store.settings["redis"])) as client:
        chunks = list(client.scan_iter(f"*{stream.id.hex()}*:c"))
        assert chunks
        assert b"jsonrpc" not in repr(client.xrange(chunks[0])).encode()
    assert tuple(await log.read(stream.id, 0, *ALL)) == frames(1, 2)
