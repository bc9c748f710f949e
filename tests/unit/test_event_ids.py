"""An event id carries its position through any client, and no string breaks its reader."""

import re

from hypothesis import example, given
from hypothesis import strategies as st

from mcp_persist_middleware.model import RequestId, StreamKind
from mcp_persist_middleware.protocol import event_id
from mcp_persist_middleware.protocol.event_id import EventIds

IDS = st.one_of(st.none(), st.integers(), st.text(max_size=60))


@given(
    st.binary(min_size=16, max_size=16),
    st.sampled_from(StreamKind),
    st.integers(0, 10**9 - 1),
    st.integers(0, 10**15 - 1),
    IDS,
)
def test_what_is_minted_is_parsed(
    stream: bytes, kind: StreamKind, epoch: int, sequence: int, request_id: RequestId
) -> None:
    ids = EventIds.of(stream, kind, request_id)
    for minted in (ids.at(epoch, sequence), ids.prime(epoch, sequence)):
        text = minted.decode()
        assert re.fullmatch(r"[A-Za-z0-9_-]{1,127}", text)
        position = event_id.parse(text)
        assert position is not None
        assert (position.stream, position.kind) == (stream, kind)
        assert (position.epoch, position.sequence) == (epoch, sequence)
        assert position.request_id in (request_id, None)
        if isinstance(request_id, int) and abs(request_id) < 10**16:
            assert type(position.request_id) is int


@given(st.one_of(st.text(), st.from_regex(r"[A-Za-z0-9_-]{22}[pg]-[0-9]+-[0-9]+-[isnx].*")))
@example("A" * 22 + "p-1-" + "9" * 26 + "-x")
@example("\x00")
@example("A" * 22 + "p-1-1-sfffffff\x00")
def test_no_text_breaks_the_reader(text: str) -> None:
    event_id.parse(text)


def test_one_and_the_text_one_differ() -> None:
    stream = event_id.new_stream_id()
    one = EventIds.of(stream, StreamKind.POST, 1).at(1, 1).decode()
    text = EventIds.of(stream, StreamKind.POST, "1").at(1, 1).decode()
    assert one != text
    assert [event_id.parse(t).request_id for t in (one, text)] == [1, "1"]  # type: ignore[union-attr]


def test_a_resumed_stream_begins_with_an_id_that_was_never_given() -> None:
    ids = EventIds.of(event_id.new_stream_id(), StreamKind.POST, 1)
    assert len({ids.prime(1, 5) for _ in range(50)} | {ids.at(1, 5)}) == 51


@example("8F4B2E6C-0d57-4c0e-9a4e-9c1d6b1f2a3b")
@example(2**200)
@example(-(10**40))
@given(
    st.one_of(st.uuids().map(str), st.integers(-(10**65), 10**65), st.text("az09:-_", max_size=41))
)
def test_the_ids_that_clients_use_come_back_from_a_cursor(request_id: RequestId) -> None:
    ids = EventIds.of(event_id.new_stream_id(), StreamKind.POST, request_id)
    longest = ids.prime(10**9 - 1, 10**15 - 1).decode()
    assert len(longest) < 128
    position = event_id.parse(longest)
    assert position is not None
    assert (type(position.request_id), position.request_id) == (type(request_id), request_id)
