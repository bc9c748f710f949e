"""How a frame is put into a row. The codec is recorded per event, so that rows written under
other settings stay readable."""

from typing import Final

RAW: Final = 0


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
