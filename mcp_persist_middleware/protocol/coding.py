"""Compressed answers: which codings are handed in, and the plain bytes of what comes back.

Only gzip is: every client that takes a compressed answer takes it, and the standard library can
undo it bit by bit.
"""

import functools
import re
import zlib
from collections.abc import Iterator

from mcp_persist_middleware.protocol import headers

_GZIP = (b"gzip", b"x-gzip")
_HEADER = b"accept-encoding"
_NO_OTHER = re.compile(rb"\*\s*;\s*q=0(?:\.0*)?", re.IGNORECASE)
_WITH_GZIP_HEAD = 16 + zlib.MAX_WBITS
_LONG = 256
PIECE = 64 * 1024
"""The most that is unpacked at a time (bytes)."""


def handed_in(raw: headers.RawHeaders) -> list[tuple[bytes, bytes]]:
    """A request's headers with those codings that can be undone here; with no coding at all where
    the client takes none of them."""
    kept, takes_gzip = [], False
    for pair in raw:
        if pair[0].lower() == _HEADER:
            known, is_gzip = _known(pair[1]) if len(pair[1]) > _LONG else _known_by_heart(pair[1])
            takes_gzip |= is_gzip
            if known:
                kept.append((pair[0], known))
        else:
            kept.append(pair)
    return kept if takes_gzip else headers.without(raw, _HEADER)


def _known(value: bytes) -> tuple[bytes, bool]:
    """What of a list of codings can be undone here, and whether gzip is among it."""
    codings = value.split(b",")
    known = [each for each in codings if _is_known(each)]
    left = value if known == codings else b",".join(known).strip()
    return left, any(_name(each) in _GZIP for each in known)


# Clients send the same few.
_known_by_heart = functools.lru_cache(maxsize=256)(_known)


def _is_known(coding: bytes) -> bool:
    name = _name(coding)
    return name in (*_GZIP, b"identity") or _NO_OTHER.fullmatch(coding.strip()) is not None


def _name(coding: bytes) -> bytes:
    return coding.partition(b";")[0].strip().lower()


def is_compressed(raw: headers.RawHeaders) -> bool:
    """Whether a body with these headers is in a coding that can be undone here."""
    value = headers.get(raw, b"content-encoding") or ""
    return value.strip().lower().encode("latin-1") in _GZIP


class Unpacking:
    """Undoes gzip as its bytes arrive."""

    def __init__(self) -> None:
        self._inflate = zlib.decompressobj(_WITH_GZIP_HEAD)

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """The plain bytes that are known with this part, in pieces of a bounded size.

        Raises:
            zlib.error: it is not gzip.
        """
        while data:
            yield self._inflate.decompress(data, PIECE)
            data = self._inflate.unconsumed_tail
            if self._inflate.eof:
                # A body may be several files in a row.
                data = self._inflate.unused_data
                self._inflate = zlib.decompressobj(_WITH_GZIP_HEAD)


class Plain:
    """The beginning of a body, as it is without its coding.

    Args:
        limit: so many bytes are wanted; what is behind them is not unpacked.
    """

    def __init__(self, raw: headers.RawHeaders, limit: int) -> None:
        self._left = limit
        self._unpacking = Unpacking() if is_compressed(raw) else None

    def feed(self, data: bytes) -> bytes:
        """What is known with this part; nothing any more of a body that is broken."""
        if self._unpacking is None:
            found = data[: self._left]
        else:
            found = self._unpacked(self._unpacking, data)
        self._left -= len(found)
        return found

    def _unpacked(self, unpacking: Unpacking, data: bytes) -> bytes:
        found = bytearray()
        try:
            for piece in unpacking.pieces(data if self._left else b""):
                found += piece
                if len(found) >= self._left:
                    break
        except zlib.error:
            self._left = len(found)
        return bytes(found[: self._left])


def plain(raw: headers.RawHeaders, body: bytes, limit: int) -> bytes:
    """A body without its coding, as far as it is there and no more than `limit` bytes of it."""
    return Plain(raw, limit).feed(body)
