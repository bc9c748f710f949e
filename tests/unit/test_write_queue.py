"""However batches leave and land, each stream's events go in their order and every stream goes."""

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from mcp_persist_middleware.log.live import LiveStream
from mcp_persist_middleware.log.queue import BATCH_EVENTS, Batch, WriteQueue
from mcp_persist_middleware.model import EventKind
from tests.contract.lanes import FRAME, fresh

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 5), st.integers(1, 700)),
        st.tuples(st.sampled_from(["leave", "land", "lose"]), st.integers(0, 1), st.just(0)),
    ),
    max_size=60,
)


def fill(queue: WriteQueue, one: LiveStream, events: int) -> None:
    """Give a stream events for the store."""
    for _ in range(events):
        one.add(EventKind.NOISE, FRAME)
    queue.add(one)


class Written:
    """What a store has of the streams, batch by batch."""

    def __init__(self, queue: WriteQueue) -> None:
        self.queue = queue
        self.flights: list[Batch] = []

    def leave(self) -> None:
        """The next batch is on its way, if there is one."""
        if batch := self.queue.gather():
            assert sum(len(write.events) for _, write in batch) <= BATCH_EVENTS // 2
            assert {one for one, _ in batch}.isdisjoint(one for b in self.flights for one, _ in b)
            self.flights.append(batch)

    def complete(self, *, committed: bool) -> None:
        """The oldest has come about, or is to go again."""
        batch = self.flights.pop(0)
        for one, write in batch if committed else ():
            assert [e.sequence for e in write.events] == list(
                range(one.committed + 1, one.committed + 1 + len(write.events))
            )
            one.commit(write)
        self.queue.complete(batch)


@given(STEPS)
def test_a_stream_is_in_one_batch_at_a_time_and_nothing_is_left_behind(
    steps: list[tuple[str, int, int]],
) -> None:
    queue = WriteQueue(max_in_flight=2)
    written = Written(queue)
    streams = [fresh() for _ in range(6)]
    for step, which, count in steps:
        match step:
            case "add":
                fill(queue, streams[which], count)
            case "leave" if len(written.flights) < 2:
                written.leave()
            case "land" | "lose" if written.flights:
                written.complete(committed=step == "land")
    while queue:
        written.leave()
        written.complete(committed=True)
    assert all(one.committed == one.last for one in streams)


def test_streams_that_always_have_something_do_not_keep_the_others_waiting() -> None:
    queue = WriteQueue(max_in_flight=1)
    busy, late = [fresh() for _ in range(BATCH_EVENTS)], fresh()
    for one in (*busy, late):
        fill(queue, one, 1)
    batch = queue.gather()
    assert late not in {one for one, _ in batch}
    for one, write in batch:
        one.add(EventKind.NOISE, FRAME)
        one.commit(write)
    queue.complete(batch)
    assert queue.gather()[0][0] is late


def test_a_stream_that_idles_is_small() -> None:
    one = fresh()
    tracemalloc.start()
    try:
        _kept = [LiveStream(one.record, one.ids, one._limits) for _ in range(100)]
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size / 100 < 1024
