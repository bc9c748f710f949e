"""What is compressed is undone bit by bit, in pieces of a bounded size; nothing else is offered."""

import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_persist_middleware.protocol import coding

GZIP = [(b"Content-Encoding", b"GZIP")]


@pytest.mark.parametrize(
    ("said", "handed_in"),
    [
        ([b"gzip"], [b"gzip"]),
        ([b"GZip;q=0.5 ,  identity"], [b"GZip;q=0.5 ,  identity"]),
        ([b"gzip, deflate, br, zstd"], [b"gzip"]),
        ([b"br;q=1.0, gzip;q=0.8, *;q=0.1"], [b"gzip;q=0.8"]),
        ([b"gzip, *;q=0.00"], [b"gzip, *;q=0.00"]),
        ([b"br", b"x-gzip"], [b"x-gzip"]),
        ([b"br, identity;q=0"], []),
        ([b"*"], []),
        ([b""], []),
        ([], []),
    ],
)
def test_only_what_can_be_undone_is_handed_in(said: list[bytes], handed_in: list[bytes]) -> None:
    raw = [(b"accept", b"a/b"), *((b"Accept-Encoding", value) for value in said), (b"x", b"y")]
    left = coding.handed_in(raw)
    assert [value for name, value in left if name.lower() == b"accept-encoding"] == handed_in
    assert [pair for pair in left if pair in raw[:1] + raw[-1:]] == raw[:1] + raw[-1:]


@given(st.lists(st.binary(max_size=300), max_size=4), st.integers(1, 40))
def test_any_chunking_gives_the_same_bytes(files: list[bytes], size: int) -> None:
    packed = b"".join(map(gzip.compress, files))
    unpacking, found = coding.Unpacking(), b""
    for at in range(0, len(packed), size):
        found += b"".join(unpacking.pieces(packed[at : at + size]))
    assert found == b"".join(files)


def test_what_is_flushed_is_known_at_once() -> None:
    packer, unpacking = zlib.compressobj(wbits=31), coding.Unpacking()
    for event in (b"data: 1\n\n", b"data: 2\n\n"):
        packed = packer.compress(event) + packer.flush(zlib.Z_SYNC_FLUSH)
        assert b"".join(unpacking.pieces(packed)) == event


def test_a_little_that_becomes_much_comes_in_pieces_and_no_further_than_it_is_wanted() -> None:
    bomb = gzip.compress(bytes(50_000_000))
    pieces = coding.Unpacking().pieces(bomb)
    assert max(len(next(pieces)) for _ in range(20)) <= coding.PIECE
    assert len(coding.plain(GZIP, bomb, 1000)) == 1000
    begun = coding.Plain(GZIP, 100_000)
    assert [len(begun.feed(bomb[:20_000])), len(begun.feed(bomb[20_000:]))] == [100_000, 0]


def test_of_a_body_that_is_broken_or_cut_the_beginning_is_known() -> None:
    body = bytes(range(256)) * 100
    packed = gzip.compress(body)
    assert body.startswith(coding.plain(GZIP, packed[: len(packed) // 2], 1 << 20))
    begun = coding.Plain(GZIP, 1 << 20)
    assert [begun.feed(b"no gzip"), begun.feed(packed)] == [b"", b""]
    assert coding.plain([(b"content-encoding", b"br")], b"as it is", 5) == b"as it"
