"""What waits for the store: the streams that have something for it, and the batches it goes in."""

from collections.abc import Callable

from mcp_persist_middleware.log.live import LiveStream
from mcp_persist_middleware.model import StreamWrite

BATCH_EVENTS = 1024
"""No batch has more events."""
_BATCH_BYTES = 8 * 1024 * 1024
# What may wait for the store in all, and of each stream however many there are: an event is as
# old as what waits before it.
_RUN_AHEAD, _LEAST_SHARE = 1024, 64

Batch = list[tuple[LiveStream, StreamWrite]]


def events_in(batch: Batch) -> int:
    """How many events a batch has."""
    return sum(len(write.events) for _, write in batch)


class WriteQueue:
    """Streams in turns. Each is in one batch at a time: its events are committed in order.

    Args:
        max_in_flight: how many batches may be on their way at once; they share what one may hold.
    """

    def __init__(self, max_in_flight: int) -> None:
        self._most = BATCH_EVENTS // max_in_flight
        self._streams: dict[LiveStream, None] = {}
        self._patient: dict[LiveStream, float] = {}
        self._in_flight: set[LiveStream] = set()

    def __len__(self) -> int:
        return len(self._streams)

    @property
    def streams(self) -> list[LiveStream]:
        """All that wait, patiently or not, or are on their way."""
        return [*self._streams, *self._patient]

    @property
    def share(self) -> int:
        """How many events of each stream may wait."""
        return max(_LEAST_SHARE, _RUN_AHEAD // max(1, len(self._streams)))

    @property
    def has_more(self) -> bool:
        """Whether a stream waits that is not on its way."""
        return len(self._streams) > len(self._in_flight)

    @property
    def fills_a_batch(self) -> bool:
        """Whether what is not on its way is enough for a whole batch."""
        events = 0
        for stream in self._streams:
            if stream not in self._in_flight:
                events += stream.waiting
                if events >= self._most:
                    return True
        return False

    def add(self, stream: LiveStream) -> None:
        """A stream has something for the store."""
        self._patient.pop(stream, None)
        self._streams[stream] = None

    def add_patient(self, stream: LiveStream, until: float) -> None:
        """A stream has nothing but its own beginning for the store: it is in no batch before it
        has more, or before a time, which is later than those of all before it."""
        self._patient[stream] = until

    def hurry(self, now: float) -> float | None:
        """Add those whose time has come; when that of the next one comes."""
        for stream, until in list(self._patient.items()):
            if until > now:
                return until
            self.add(stream)
        return None

    def discard(self, stream: LiveStream) -> None:
        """A stream wants nothing of the store any more."""
        self._streams.pop(stream, None)
        self._patient.pop(stream, None)

    def clear(self) -> None:
        """Nothing waits."""
        self._streams.clear()
        self._patient.clear()

    def gather(self, is_wanted: Callable[[LiveStream], bool] | None = None) -> Batch:
        """The next batch, of streams that are not on their way; it has to be `complete`d.

        Args:
            is_wanted: of which streams alone.
        """
        batch: Batch = []
        events = size = 0
        for stream in self._streams:
            if events >= self._most or size >= _BATCH_BYTES:
                break
            if stream in self._in_flight or not (is_wanted is None or is_wanted(stream)):
                continue
            write = stream.next_write(self._most - events)
            events += len(write.events)
            size += write.size
            batch.append((stream, write))
        self._in_flight.update(stream for stream, _ in batch)
        return batch

    def complete(self, batch: Batch) -> None:
        """A batch is not on its way any more. What its streams have now goes behind the others'."""
        for stream, _ in batch:
            self._in_flight.discard(stream)
            if stream in self._streams:
                del self._streams[stream]
                if stream.has_work:
                    self._streams[stream] = None
