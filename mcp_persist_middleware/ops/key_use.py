"""Which keys the payloads of a store are encrypted with: their names stand before each of them."""

from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence

from mcp_persist_middleware.log.codecs import cipher
from mcp_persist_middleware.log.codecs.parts import Blobs
from mcp_persist_middleware.stores.sql.inspected import PayloadHead
from mcp_persist_middleware.stores.sql.inspection import Inspection

# Of a payload: four bytes for its size, one for the length of the key's name, then that.
_LENGTH_AT = 4
_PAGE = 1000
NO_KEY = ""
"""What is not encrypted has this one."""


def key_of(codec: int, begins: bytes) -> str:
    """The name of the key of a payload, from its codec and its first bytes."""
    if not codec & cipher.AES_GCM or len(begins) <= _LENGTH_AT:
        return NO_KEY
    start = _LENGTH_AT + 1
    return begins[start : start + begins[_LENGTH_AT]].decode("ascii", "replace")


def key_of_blob(blob: bytes) -> str:
    """The same of what says itself how it is written; its first bytes are enough."""
    written = Blobs.codec_of(blob)
    return NO_KEY if written is None else key_of(*written)


async def sampled(store: Inspection, count: int) -> tuple[Mapping[str, int], Mapping[str, int]]:
    """How many of the newest events are encrypted with which key, and how many of what is beside
    them; so many rows of each kind are looked at."""
    heads = await store.newest_payload_heads(count)
    beside = Counter[str]()
    async for blobs in store.blob_heads(count):
        beside.update(map(key_of_blob, blobs))
    return Counter(key_of(head.codec, head.begins) for head in heads), beside


async def pages(store: Inspection) -> AsyncIterator[Sequence[PayloadHead]]:
    """How all events are written, page by page in the order of their streams."""
    after = (b"", 0)
    while page := await store.payload_heads(after, _PAGE):
        yield page
        after = page[-1].stream, page[-1].sequence
