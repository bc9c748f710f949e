"""Wake-ups between the processes on one SQLite file: `PRAGMA data_version` changes when another
connection has committed (https://www.sqlite.org/pragma.html#pragma_data_version). One thread with
a connection of its own asks for all readers of an event loop, and only while there are any.
"""

import asyncio
import contextlib
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from mcp_persist_middleware.model import HighWater, StreamState
from mcp_persist_middleware.wakeups.base import (
    ANYTHING,
    NOTHING_TOLD,
    Subscription,
    Subscriptions,
    Wakeups,
)

logger = logging.getLogger(__name__)

# `data_version` loses nothing; patience is for what it cannot see, such as a replaced file.
_PATIENCE = 5.0
# Between two questions (seconds): while something happens, and at most while nothing does.
_POLL, _LAZY, _SLOWER = 0.004, 0.02, 1.1
# A reader that is woken reads its stream, which costs about a millisecond: so many are woken that
# all of them together look this many times a second. Finding out whom to wake takes at most this
# share of the thread's time.
_LOOKS_PER_SECOND, _SHARE = 1000, 0.1
_AFTER_FAILURE = 0.25
_CHUNK = 256
_JOIN = 1.0

FileConnect = Callable[[], sqlite3.Connection]


class _Seen(NamedTuple):
    """What is known of a topic, as far as it has any of it. Of `ANYTHING` the first is the number
    that changes with every commit."""

    sequence: int | None
    epoch: int | None = None
    state: int | None = None
    reply: int | None = None
    """Whether a relayed request is answered."""
    request: bytes | None = None
    """The last relayed request that waits for a worker."""

    @property
    def high_water(self) -> HighWater | None:
        """How far a stream is that is open."""
        if self.state != StreamState.OPEN or self.epoch is None:
            return None
        return HighWater(self.epoch, self.sequence or 0)


class DataVersion(Wakeups):
    """Notifies those readers whose stream has moved, and those whom a relayed request concerns.

    Args:
        connect: makes a connection that reads, in the thread that calls it.
        in_place: whether the database is where it was when that was made.
        stream, event, inbox: the names of its tables.
    """

    def __init__(
        self,
        connect: FileConnect,
        in_place: Callable[[], bool],
        *,
        stream: str,
        event: str,
        inbox: str,
    ) -> None:
        self._connect = connect
        self._in_place = in_place
        self._select = (
            f"SELECT v.column1, (SELECT sequence FROM {event} WHERE stream = v.column1"
            " ORDER BY sequence DESC LIMIT 1), s.epoch, s.state,"
            f" (SELECT 1 FROM {inbox} WHERE id = v.column1 AND state = 2),"
            f" (SELECT max(id) FROM {inbox} WHERE worker = CAST(v.column1 AS TEXT) AND state = 0)"
            f" FROM (VALUES {{rows}}) AS v LEFT JOIN {stream} AS s ON s.id = v.column1"
        )
        self._subscriptions = Subscriptions()
        self._poller: _Poller | None = None

    def subscribe(self, stream: bytes) -> Subscription:
        subscription = Subscription(_PATIENCE, lambda one: self._unsubscribe(stream, one))
        self._subscriptions.add(stream, subscription)
        if self._poller is None:
            self._poller = _Poller(
                self._connect, self._in_place, self._select, self._subscriptions.notify
            )
            self._poller.start()
        self._poller.streams = tuple(self._subscriptions)
        return subscription

    def _unsubscribe(self, stream: bytes, subscription: Subscription) -> None:
        if not self._subscriptions.discard(stream, subscription) or self._poller is None:
            return
        self._poller.streams = tuple(self._subscriptions)
        if not self._subscriptions:
            self._poller.stop()
            self._poller = None

    async def aclose(self) -> None:
        poller, self._poller = self._poller, None
        self._subscriptions.clear()
        if poller is not None:
            poller.stop()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_JOIN):
                    await poller.over.wait()


class _Poller(threading.Thread):
    """Asks until it is stopped. A thread, because a disk that hangs must not hold the event loop.

    `streams` is replaced as a whole by the event loop and read once in each round here.
    """

    def __init__(
        self,
        connect: FileConnect,
        in_place: Callable[[], bool],
        select: str,
        notify: Callable[[Sequence[bytes], Mapping[bytes, HighWater]], None],
    ) -> None:
        # Daemon: an event loop that ends without `aclose` must not keep the process alive.
        super().__init__(name="mcp-persist-data-version", daemon=True)
        self.streams: tuple[bytes, ...] = ()
        self.over = asyncio.Event()
        self._connect = connect
        self._in_place = in_place
        self._select = select
        self._notify = notify
        self._loop = asyncio.get_running_loop()
        self._ended = threading.Event()
        self._failing = False

    def stop(self) -> None:
        """End within a round."""
        self._ended.set()

    def run(self) -> None:
        try:
            self._run()
        finally:
            self._call(self.over.set)

    def _run(self) -> None:
        while not self._is_over():
            try:
                with contextlib.closing(self._connect()) as connection:
                    self._follow(connection)
            except (sqlite3.Error, OSError) as error:
                if not self._failing:
                    logger.warning(
                        "MPM-WAKE-01: No wake-ups for now, readers look by themselves: %s", error
                    )
                self._failing = True
                streams = self.streams
                self._wake(streams)
                self._ended.wait(max(_AFTER_FAILURE, len(streams) / _LOOKS_PER_SECOND))

    def _is_over(self) -> bool:
        return self._ended.is_set() or self._loop.is_closed()

    def _follow(self, connection: sqlite3.Connection) -> None:
        """Wake readers until stopped, or until the file is another one."""
        version: int | None = None
        asked: tuple[bytes, ...] = ()
        seen: dict[bytes, _Seen] = {}
        pause = 0.0
        while not self._ended.wait(pause) and not self._is_over():
            if not self._in_place():
                return
            streams = self.streams
            (now,) = connection.execute("PRAGMA data_version").fetchone()
            if now == version and streams is asked:
                pause = min(pause * _SLOWER, _LAZY)
                continue
            version, asked, began = now, streams, time.thread_time()
            found = self._look(connection, streams)
            if ANYTHING in found:
                found[ANYTHING] = _Seen(now)
            self._failing = False
            moved = [stream for stream in streams if seen.get(stream) != found.get(stream)]
            seen = found
            marks = {stream: found[stream].high_water for stream in moved if stream in found}
            self._wake(moved, {stream: mark for stream, mark in marks.items() if mark is not None})
            took = time.thread_time() - began
            pause = max(_POLL, took / _SHARE, len(moved) / _LOOKS_PER_SECOND)

    def _look(
        self, connection: sqlite3.Connection, streams: tuple[bytes, ...]
    ) -> dict[bytes, _Seen]:
        found: dict[bytes, _Seen] = {}
        for start in range(0, len(streams), _CHUNK):
            part: list[bytes | None] = [*streams[start : start + _CHUNK]]
            rows = 1 << (len(part) - 1).bit_length()
            part += [None] * (rows - len(part))
            select = self._select.format(rows=", ".join(["(?)"] * rows))
            for stream, *seen in connection.execute(select, part):
                found[stream] = _Seen(*seen)
        return found

    def _wake(
        self, streams: Sequence[bytes], told: Mapping[bytes, HighWater] = NOTHING_TOLD
    ) -> None:
        if streams:
            self._call(self._notify, streams, told)

    def _call(self, function: Callable[..., None], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # the event loop is closed
            self._loop.call_soon_threadsafe(function, *arguments)
