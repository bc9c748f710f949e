"""The chain of codecs that the settings name: what is done to a payload on its way to the store,
and undone on its way back, whatever the settings were then."""

import struct
from typing import Final, NamedTuple, Self

from mcp_persist_middleware.errors import MissingPackageError
from mcp_persist_middleware.log.codecs import cipher, compression
from mcp_persist_middleware.log.codecs.cipher import Cipher
from mcp_persist_middleware.model import SessionKey
from mcp_persist_middleware.settings import Settings

RAW: Final = 0
# Before all that is not as it is: how large it was.
_SIZE = struct.Struct(">I")
_NUMBER = struct.Struct(">IQB")
_COMPRESSION = 3
_KNOWN = _COMPRESSION | cipher.AES_GCM
_METHODS = {"gzip": compression.GZIP, "zstd": compression.ZSTD, None: RAW}


class Bound(NamedTuple):
    """What a payload belongs to, and nothing else."""

    owner: bytes
    """A stream, a session, a relayed request, a job: what has a key of its own."""
    part: bytes
    """Which of its payloads."""

    @classmethod
    def of_event(cls, stream: bytes, epoch: int, sequence: int, kind: int) -> Self:
        """An event's frame."""
        return cls(b"stream " + stream, _NUMBER.pack(epoch, sequence, kind))

    @classmethod
    def of_request(cls, stream: bytes) -> Self:
        """The request that a stream keeps."""
        return cls(b"stream " + stream, b"request")

    @classmethod
    def of_session(cls, key: SessionKey) -> Self:
        """A session's `initialize` body."""
        return cls("\0".join(("session", *key)).encode("utf-8", "surrogatepass"), b"initialize")

    @classmethod
    def of_relayed(cls, request: bytes, part: bytes) -> Self:
        """What is in a relayed request."""
        return cls(b"letter " + request, part)

    @classmethod
    def of_job(cls, job: bytes, part: bytes) -> Self:
        """What a job keeps of its client."""
        return cls(b"job " + job, part)

    @classmethod
    def of_entry(cls, entry: str) -> Self:
        """What an entry of the journal keeps of a call's parameters."""
        return cls(b"journal " + entry.encode(), b"params")


class Chain:
    """Compression, then encryption, as far as the settings name them.

    Raises:
        ConfigurationError: what they name is not installed.
    """

    def __init__(self, settings: Settings) -> None:
        self._method = _METHODS[settings.compression]
        self._least = settings.compress_min_bytes
        keys = settings.encryption_keys
        if keys is not None and not cipher.is_available():
            raise MissingPackageError(
                name="encryption_keys", package="cryptography", extra="crypto"
            )
        if settings.compression == "zstd" and not compression.has_zstd():
            raise MissingPackageError(name="compression", package="backports.zstd", extra="zstd")
        self._cipher = None if keys is None else Cipher(keys)

    @property
    def is_idle(self) -> bool:
        """Whether what is written now stays as it is."""
        return self._cipher is None and self._method == RAW

    def encode(self, data: bytes, bound: Bound) -> tuple[int, bytes]:
        """The codec to record, and the payload to store."""
        codec, size, payload = RAW, len(data), data
        if self._method != RAW and size >= self._least:
            smaller = compression.compress(self._method, data)
            if len(smaller) + _SIZE.size < size:
                codec, payload = self._method, smaller
        if self._cipher is not None:
            codec |= cipher.AES_GCM
            payload = self._cipher.encrypt(payload, bound.owner, _associated(codec, size, bound))
        return (RAW, data) if codec == RAW else (codec, _SIZE.pack(size) + payload)

    def decode(self, codec: int, payload: bytes, bound: Bound) -> bytes:
        """What was encoded for this place.

        Raises:
            ValueError: it was not, or it cannot be read here; the text says why.
        """
        if codec == RAW:
            return payload
        if codec & ~_KNOWN:
            raise ValueError(f"codec {codec} is not known to this version")
        if len(payload) < _SIZE.size:
            raise ValueError("it is damaged (too short)")
        size, data = size_of(codec, payload), payload[_SIZE.size :]
        if codec & cipher.AES_GCM:
            if self._cipher is None:
                raise ValueError("it is encrypted, and there are no encryption_keys")
            data = self._cipher.decrypt(data, bound.owner, _associated(codec, size, bound))
        if method := codec & _COMPRESSION:
            return compression.decompress(method, data, size)
        return data


def size_of(codec: int, payload: bytes) -> int:
    """How large a payload is when it is decoded."""
    if codec == RAW or codec & ~_KNOWN or len(payload) < _SIZE.size:
        return len(payload)
    size: int = _SIZE.unpack_from(payload)[0]
    return size


def _associated(codec: int, size: int, bound: Bound) -> bytes:
    return bytes([codec]) + _SIZE.pack(size) + bound.part
