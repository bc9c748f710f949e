"""JSON texts that are kept small in a column, whatever the settings: bytes, not kilobytes, for each
session."""

import zlib
from typing import Final

_PACKED: Final = b"\x78"


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
