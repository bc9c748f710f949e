"""How a frame is put into a row. The codec is recorded per event, so that rows written under
other settings stay readable."""

import zlib
from typing import Final

RAW: Final = 0
_PACKED = b"\x78"


def encode(frame: bytes) -> tuple[int, bytes]:
    """The codec and the payload to store."""
    return RAW, frame


def decode(codec: int, payload: bytes) -> bytes:
    """The frame in a row.

    Raises:
        ValueError: this version does not know the codec.
    """
    if codec != RAW:
        raise ValueError(f"codec {codec} is not known to this version")
    return payload


def pack(body: bytes) -> bytes:
    """A JSON text, smaller if that is possible."""
    packed = zlib.compress(body)
    return packed if len(packed) < len(body) else body


def unpack(kept: bytes) -> bytes:
    """The JSON text again; none begins as what zlib writes.

    Raises:
        ValueError: it is damaged.
    """
    if not kept.startswith(_PACKED):
        return kept
    try:
        return zlib.decompress(kept)
    except zlib.error as error:
        raise ValueError(str(error)) from error
