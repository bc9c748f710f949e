"""A reader's place in a stream. The same loop serves a client that never left and one that
returns for the fifth time: tail, else store, else wait and look again."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mcp_persist_middleware import telemetry
from mcp_persist_middleware.log.live import LiveStream
from mcp_persist_middleware.log.reads import Events, Reads
from mcp_persist_middleware.log.takeover import rewound
from mcp_persist_middleware.model import Event, EventKind, HighWater, StreamRecord, StreamState
from mcp_persist_middleware.protocol.event_id import Position
from mcp_persist_middleware.wakeups.base import TOGETHER, Subscription

# With every wake-up lost a reader still gets on at this pace, where the writer is in this process.
_LOCAL_POLL = 15.0
# A reader that was woken, and given no more than so many events of so many bytes, has all that
# there was: it looks again when it is woken again, or after so long (seconds). Only then it asks
# whether the stream is over, where no answer says so, and the wake-up did not say that it is open.
_FEW, _SMALL, _MOMENT = 64, 64 * 1024, 0.05


@dataclass(frozen=True, slots=True)
class Page:
    """The next events of a stream, in order."""

    events: list[Event]
    missing: int = 0
    """How many numbers before the last event are gone for good."""
    passed: int = 0
    """How many events without an id are not given: an earlier reader has had them, and it may have
    been this one, which cannot tell."""
    ended: bool = False
    """Nothing comes after this page."""
    comment: bytes = b""
    """What the application says while it has no events."""


class Cursor:
    """Reads committed events after a position, each once, in order. Close it after use.

    Args:
        reads: the way to the store, shared with the other readers of the event loop.
        live: the stream itself when it is written in this process.
        resumed: whether the reader has been here before. Of a degraded stream it then gets what no
            reader had when it came, and the answer; not again what may have reached it.
        told: the events of a stream that has ended, all that there are, where they are known.
        epoch: the epoch in which the reader found the stream.
        given: that of the last event that the reader has, where it may be an older one.
        ahead: of the connection that asked for the stream's answer: whether it may have that now,
            while its commit is on its way.
    """

    def __init__(
        self,
        reads: Reads,
        stream: bytes,
        after: int,
        live: LiveStream | None,
        *,
        resumed: bool,
        told: Sequence[Event] = (),
        epoch: int = 0,
        given: int = 0,
        ahead: Callable[[], bool] | None = None,
    ) -> None:
        self._log = reads.log
        self._reads = reads
        self._epoch = epoch
        self._ahead = ahead
        self._stream = stream
        self._live = live
        self._handed = live.handed if live is not None and resumed else 0
        self._told = list(told)
        self._stopped = False
        self._subscription: Subscription | None = None
        # Of a stream that is written elsewhere: an answer is mostly the last event.
        self._expects_end = self._has_waited = self._is_woken = False
        # For so long nothing more is looked for (seconds).
        self._rest = 0.0
        # What was said to others is not repeated.
        self._heard = live.said if live is not None and resumed else None
        # Of the last event that was given here, or that whoever comes back has; 0 before that.
        self._given = (given or epoch) if after and live is None else 0
        self.position = after

    @property
    def is_local(self) -> bool:
        """Whether the stream is written in this process."""
        return self._live is not None

    @property
    def is_caught_up(self) -> bool:
        """Whether all of a stream that is written in this process was read; what is not, and is
        not `ready` either, is in the store."""
        return self._live is not None and self.position >= self._live.visible

    def stop(self) -> None:
        """Let a waiting `next` return, with a page that ends here."""
        self._stopped = True
        if self._live is not None:
            self._live.signal.notify()
        if self._subscription is not None:
            self._subscription.notify()

    def go_to(self, position: int) -> None:
        """Read on behind another number: what was given since counts as not read."""
        self.position, self._rest, self._expects_end = position, 0.0, False

    def close(self) -> None:
        """Nobody reads any more."""
        if self._subscription is not None:
            self._subscription.close()
            self._subscription = None

    def ready(self) -> Page | None:
        """The next page if it can be had without waiting for anything."""
        if self._stopped:
            return Page([], ended=True)
        live = self._live
        if live is None:
            told, self._told = self._told, []
            return self._page(told, told[-1].sequence, ended=True) if told else None
        if self.position >= live.visible:
            if live.ended:
                return Page([], ended=True)
            comment = self._comment(live)
            answer = live.last_word if self._ahead is not None else None
            if answer is not None and self._ahead is not None and self._ahead():
                self.position = answer.sequence
                return Page([answer], ended=True, comment=comment)
            return Page([], comment=comment) if comment else None
        events = live.tail_after(self.position)
        if events is None:
            return None
        last = events[-1].sequence if events else live.visible
        comment, ended = self._comment(live), live.ended and last >= live.visible
        return self._page(events, last, ended=ended, comment=comment)

    def _comment(self, live: LiveStream) -> bytes:
        said = live.said
        if said is None or said is self._heard:
            return b""
        self._heard = said
        # One that an event has overtaken is not worth a line.
        return said[1] if said[0] >= self.position else b""

    async def wait(self, timeout: float) -> None:
        """Wait a moment for the next event of a stream that is written here."""
        live = self._live
        if live is not None and self.is_caught_up and not (live.ended or self._stopped):
            await live.signal.wait(timeout)

    async def next(self) -> Page:
        """The next page; waits until there is one.

        Raises:
            StoreError: the page is only in the store, and the store does not answer.
        """
        while True:
            page = self.ready()
            if page is not None:
                return page
            live = self._live
            if live is not None and self.is_caught_up:
                await live.signal.wait(_LOCAL_POLL)
                continue
            page = await self._from_store()
            if page is not None:
                return page

    async def _from_store(self) -> Page | None:
        live = self._live
        bound = live.visible if live is not None else None
        if self._rest and self._subscription is not None:
            rest, self._rest = self._rest, 0.0
            await self._woken(self._subscription, rest)
            return None
        if not self._expects_end and (events := await self._read()):
            self._expects_end = live is None and events[-1].kind is EventKind.RESPONSE
            self._rest = 0.0 if self._expects_end else self._rest_after(events)
            self._is_woken = False
            return self._page(events, events[-1].sequence)
        self._expects_end = False
        if live is not None and bound is not None:
            # Retention took all that was committed: go on where the tail begins.
            if live.degraded and (left := live.tail_after(live.committed)):
                return self._page(left, left[-1].sequence)
            return self._page([], bound, ended=live.ended and bound >= live.visible)
        record = await self._log.find(self._stream)
        if record is not None and await self._is_behind(record):
            return None
        if record is None or record.state is not StreamState.OPEN:
            # The end, and what came before it, may have been committed between the two looks.
            is_over = record is not None and self.position >= record.last_sequence
            if not is_over and (events := await self._read()):
                return self._page(events, events[-1].sequence)
            last = record.last_sequence if record is not None else self.position
            self._note_lag(record)
            return Page([], missing=max(0, last - self.position), ended=True)
        # Only a reader that has to wait asks to be woken.
        if self._subscription is None:
            self._subscription = self._log.wakeups.subscribe(self._stream)
        await self._woken(self._subscription)
        self._has_waited = True
        return None

    async def _woken(self, subscription: Subscription, most: float = math.inf) -> None:
        """Wait for a wake-up. Who has waited for long asks together with the others whether that
        was for nothing."""
        has, self._is_woken = HighWater(self._given, self.position), False
        while not self._is_woken:
            await subscription.wait(most, has)
            self._is_woken = subscription.was_notified
            is_short = most < subscription.patience or subscription.patience < TOGETHER
            if self._is_woken or is_short or not await self._reads.is_current(self._stream, has):
                return

    def _rest_after(self, events: Sequence[Event]) -> float:
        """How long nothing more is looked for (seconds)."""
        if not self._is_woken or self._subscription is None:
            return 0.0
        told = self._subscription.told
        if told is not None and HighWater(events[-1].epoch, events[-1].sequence).covers(told):
            return math.inf
        return _MOMENT if _is_short(events) else 0.0

    async def _is_rewritten(self, events: Sequence[Event]) -> bool:
        """Whether those are of a later epoch, and not the first of it that this reader lacks."""
        if not 0 < self._given < events[0].epoch:
            return False
        record = await self._log.find(self._stream)
        return record is not None and await self._is_behind(record)

    async def _is_behind(self, record: StreamRecord) -> bool:
        """Whether numbers that were given here are those of a later epoch's events now: a store
        has forgotten, or its writer has given up, what this reader had already. Then go back."""
        if not 0 < self._given < record.epoch:
            return False
        had = Position(self._stream, record.kind, self._given, self.position, "")
        found = await rewound(self._log, had, record)
        # Pages of the older epoch are not given again.
        self._epoch, self._given = record.epoch, found.epoch
        is_behind, self.position = found.sequence < self.position, found.sequence
        return is_behind

    def _note_lag(self, record: StreamRecord | None) -> None:
        if self._has_waited and record is not None and record.ended_at is not None:
            lag = max(0.0, self._log.now() - record.ended_at)
            telemetry.reader_lag_seconds.record(lag)

    async def _read(self) -> Events:
        events = await self._reads.page(self._stream, self._epoch, self.position)
        if events and await self._is_rewritten(events):
            events = await self._reads.page(self._stream, self._epoch, self.position)
        return events

    def _page(
        self, events: list[Event], last: int, *, ended: bool = False, comment: bytes = b""
    ) -> Page:
        """All that is left up to a number."""
        begin, self.position = self.position, last
        if self._live is None and events:
            self._given = events[-1].epoch
        live, passed = self._live, 0
        if live is not None and live.degraded and last > live.committed:
            live.handed = max(live.handed, last)
            had = self._handed
            # An answer comes again rather than never.
            events = [
                event
                for event in events
                if event.epoch or event.sequence > had or event.kind is EventKind.RESPONSE
            ]
            again = sum(not event.epoch and event.sequence <= had for event in events)
            passed = max(0, min(last, had) - max(begin, live.committed)) - again
        missing = last - begin - len(events) - passed
        return Page(events, missing, passed, ended, comment)


def _is_short(events: Sequence[Event]) -> bool:
    """Whether no page ended here because it was full."""
    return len(events) < _FEW and sum(len(event.frame) for event in events) < _SMALL
