"""The splitter keeps every byte that it does not have to change, whatever the chunks."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_persist_middleware.errors import EventTooLargeError
from mcp_persist_middleware.protocol import sse
from mcp_persist_middleware.protocol.sse import FrameParser

LINES = st.sampled_from(
    [
        b"data: {}",
        b'data: {"a":"\xe2\x80\xa8"}',
        b"data:no space",
        b"data",
        b"data: ",
        b"event: message",
        b"event: other",
        b"id: 7",
        b"id",
        b"retry: 10",
        b": ping - 2026",
        b": a remark",
        b"unknown: field",
        b"",
        b"",
    ]
)
ENDS = st.sampled_from([b"\r\n", b"\n", b"\r"])
STREAMS = st.tuples(
    st.sampled_from([b"", b"\xef\xbb\xbf"]), st.lists(st.tuples(LINES, ENDS), max_size=40)
).map(lambda made: made[0] + b"".join(line + end for line, end in made[1]))


def reference(stream: bytes) -> list[bytes]:
    """The data of each event, by the letter of the specification."""
    found: list[bytes] = []
    data: list[bytes] = []
    *lines, _unterminated = re.split(rb"\r\n|\r|\n", stream.removeprefix(b"\xef\xbb\xbf"))
    for line in lines:
        name, _, value = line.partition(b":")
        if name == b"data":
            data.append(value.removeprefix(b" "))
        elif line == b"":
            if any(data):
                found.append(b"\n".join(data))
            data = []
    return found


def parse(chunks: list[bytes]) -> list[sse.Frame]:
    """All frames of a stream that arrives in these chunks."""
    parser = FrameParser(1 << 20)
    return [frame for chunk in chunks for frame in parser.feed(chunk)]


@given(STREAMS)
def test_the_events_are_those_of_the_specification(stream: bytes) -> None:
    # A CR at the very end may be half of a CRLF; either way the line has ended.
    assert [frame.data for frame in parse([stream])] == reference(stream)


@given(STREAMS, st.lists(st.integers(0, 12), max_size=60))
def test_any_chunking_gives_the_same_frames(stream: bytes, sizes: list[int]) -> None:
    chunks, rest = [], stream
    for size in sizes:
        chunks.append(rest[:size])
        rest = rest[size:]
    assert parse([*chunks, rest]) == parse([stream])


def test_lines_are_kept_as_they_are_but_for_the_id() -> None:
    stream = b"event: other\nid: 5\nunknown: x\ndata: a\ndata: b\nretry: 9\n\n"
    (frame,) = parse([stream])
    assert frame.raw == b"event: other\r\nunknown: x\r\ndata: a\r\ndata: b\r\nretry: 9\r\n"
    assert (frame.raw + sse.CRLF).endswith(b"\r\n\r\n")


def test_a_comment_travels_with_the_next_event_and_a_ping_ends_here() -> None:
    stream = (
        b": ping - now\r\n\r\n: remark\r\n\r\nid: 1\r\ndata: \r\nretry: 5\r\n\r\ndata: x\r\n\r\n"
    )
    (frame,) = parse([stream])
    assert frame.raw == b": remark\r\ndata: x\r\n"


@given(st.text().filter(lambda text: text.strip("\r\n")).map(str.encode))
def test_a_message_written_as_an_event_is_read_as_the_same_message(message: bytes) -> None:
    (frame,) = parse([sse.event(message) + sse.CRLF])
    assert frame.data == re.sub(rb"\r\n|\r", b"\n", message)


def test_an_event_without_an_end_is_bounded() -> None:
    parser = FrameParser(100)
    parser.feed(b"data: " + b"x" * 90)
    with pytest.raises(EventTooLargeError, match="100"):
        parser.feed(b"x" * 10)


def test_the_work_is_linear_in_the_bytes() -> None:
    class Counted(bytearray):
        """A buffer that counts what is copied out of it."""

        copied = 0

        def __getitem__(self, item):  # type: ignore[no-untyped-def, override]
            part = super().__getitem__(item)
            Counted.copied += len(part) if isinstance(item, slice) else 1
            return part

    parser = FrameParser(1 << 30)
    parser.feed(b"data: ")
    parser._buffer = Counted(parser._buffer)
    size = 4 << 20
    for _ in range(size // 4096):
        parser.feed(b"x" * 4096)
        assert len(parser._buffer) - parser._scanned <= 4096
    (frame,) = parser.feed(b"\r\n\r\n")
    assert len(frame.data) == size
    assert Counted.copied < 3 * size
