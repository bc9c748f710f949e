"""gzip and zstd, each with a bound for what comes out again."""

import functools
import importlib
import threading
import zlib
from typing import Any, Final

GZIP: Final = 1
ZSTD: Final = 2

# What the module is called in Python 3.14, and before.
_ZSTD_MODULES = ("compression.zstd", "backports.zstd")
# gzip's own 6 takes ten times as long for 200 KB of text as 3 does, and saves an eighth.
_GZIP_LEVEL, _ZSTD_LEVEL = 3, 3
_GZIP_WINDOW = 31


def _module() -> Any | None:
    for name in _ZSTD_MODULES:
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    return None


_zstd = _module()


class _Kept(threading.local):
    """A compressor for each thread: to make it takes longer than to compress a short text, and it
    lets in one thread at a time."""

    def __init__(self) -> None:
        self.compressor = _needed().ZstdCompressor(_ZSTD_LEVEL)


def has_zstd() -> bool:
    """Whether zstd is spoken here."""
    return _zstd is not None


def compress(method: int, data: bytes) -> bytes:
    """The same, smaller in most cases."""
    if method == GZIP:
        return zlib.compress(data, _GZIP_LEVEL, _GZIP_WINDOW)
    compressor = _kept().compressor
    compressed: bytes = compressor.compress(data, compressor.FLUSH_FRAME)
    return compressed


def decompress(method: int, data: bytes, size: int) -> bytes:
    """What was compressed, of exactly `size` bytes.

    Raises:
        ValueError: it is damaged, or of another size, or nothing here can read it.
    """
    reader = _reader(method)
    try:
        # One byte more than there may be: never as much as whoever wrote it would like.
        found: bytes = reader.decompress(data, size + 1)
    except Exception as error:
        raise ValueError(f"it is damaged ({type(error).__name__})") from error
    if len(found) != size or not reader.eof:
        raise ValueError("it is damaged (another size was recorded)")
    return found


def _reader(method: int) -> Any:
    if method == GZIP:
        return zlib.decompressobj(_GZIP_WINDOW)
    if method == ZSTD:
        return _needed().ZstdDecompressor()
    raise ValueError(f"compression {method} is not known to this version")


@functools.cache
def _kept() -> _Kept:
    return _Kept()


def _needed() -> Any:
    if _zstd is None:
        raise ValueError(
            'it is compressed with zstd: install the extra "mcp-persist-middleware[zstd]"'
        )
    return _zstd
