"""Which keys the payloads of a store are encrypted with: their names stand before each of them."""

from collections import Counter
from collections.abc import Mapping

from mcp_persist_middleware.log.codecs import cipher
from mcp_persist_middleware.stores.sql.inspected import PayloadHead
from mcp_persist_middleware.stores.sql.inspection import Inspection

# Of a payload: four bytes for its size, one for the length of the key's name, then that.
_LENGTH_AT = 4


def key_of(head: PayloadHead) -> str:
    """The name of the key of an event; empty where it is not encrypted."""
    if not head.codec & cipher.AES_GCM or len(head.begins) <= _LENGTH_AT:
        return ""
    start = _LENGTH_AT + 1
    return head.begins[start : start + head.begins[_LENGTH_AT]].decode("ascii", "replace")


async def sampled(store: Inspection, count: int) -> Mapping[str, int]:
    """How many of the newest events are encrypted with which key."""
    return Counter(key_of(head) for head in await store.newest_payload_heads(count))
