"""The splitter keeps every byte that it does not have to change, whatever the chunks."""

import re

import pytest
from hypothesis import example, given
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
    """The data of each event, by the relayed request of the specification."""
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
@example(b"event: message\r\ndata: \r\n\r\n")
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


def said(*chunks: bytes) -> list[tuple[bytes, list[bytes]]]:
    """After each chunk, the comments that are passed on and the frames that are stored."""
    parser = FrameParser(1 << 20)
    fed = [(parser.feed(chunk), parser.comments()) for chunk in chunks]
    return [(comments, [frame.raw for frame in frames]) for frames, comments in fed]


def test_a_comment_that_comes_without_an_event_is_passed_on_at_once_and_not_stored() -> None:
    assert said(b": ping - now\n\n", b": a\n: b\n\n", b"data: x\n\n: c\r\r") == [
        (b": ping - now\r\n\r\n", []),
        (b": a\r\n: b\r\n\r\n", []),
        (b": c\r\n\r\n", [b"data: x\r\n"]),
    ]


def test_a_comment_line_is_passed_on_before_its_block_has_ended_but_never_within_an_event() -> None:
    assert said(b": a", b"\n", b"\n: b\r", b"\n", b"data: x\n: within\n", b": c\n", b"\n") == [
        (b"", []),
        (b": a\r\n\r\n", []),
        (b"", []),
        (b": b\r\n\r\n", []),
        (b"", []),
        (b"", []),
        (b"", [b"data: x\r\n: within\r\n: c\r\n"]),
    ]


def test_an_empty_event_is_passed_on_as_a_comment_unless_it_gives_an_id() -> None:
    assert said(b"event: ping\ndata:\n\n", b"id: 1\ndata:\n\n", b"retry: 1\n\n") == [
        (b":\r\n\r\n", []),
        (b"", []),
        (b"", []),
    ]


def test_of_many_comments_the_newest_are_kept_and_none_is_cut() -> None:
    ((comments, _),) = said(b"".join(b": %d %s\n\n" % (n, b"x" * 90) for n in range(1000)))
    lines = comments.split(b"\r\n")[:-2]
    assert len(comments) <= 4096 + 2
    assert [line[2:].split()[0] for line in lines] == [
        b"%d" % (1000 - n) for n in range(len(lines), 0, -1)
    ]
    assert {len(line.split()[-1]) for line in lines} == {90}
    assert said(b": " + b"x" * 5000 + b"\n\ndata: x\n\n") == [(b"", [b"data: x\r\n"])]


@given(STREAMS, st.lists(st.integers(0, 12), max_size=60))
def test_comments_that_are_passed_on_change_no_event(stream: bytes, sizes: list[int]) -> None:
    chunks, rest = [], stream
    for size in sizes:
        chunks.append(rest[:size])
        rest = rest[size:]
    parser, found = FrameParser(1 << 20), []
    for chunk in (*chunks, rest):
        found += parser.feed(chunk)
        comments = parser.comments()
        assert {line[:1] for line in comments.split(b"\r\n") if line} <= {b":"}
    assert [frame.data for frame in found] == reference(stream)


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
