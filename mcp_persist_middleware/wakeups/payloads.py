"""What is said in a NOTIFY: a kind, and topics, each with how far it is where that is told."""

import base64
import struct
from collections.abc import Iterable, Iterator

from mcp_persist_middleware.model import HighWater

WANT, TELL, HELLO = "w", "t", "h"
# PostgreSQL takes payloads below 8000 bytes.
_MOST = 7900
# How far a topic is stands behind it. Who does not know that takes it for another topic.
_MARK, _NUMBERS = "#", ">IQ"


def named(topic: bytes, told: HighWater | None = None) -> str:
    """A topic, and how far it is."""
    name = base64.b64encode(topic).decode()
    if told is None:
        return name
    return f"{name} {_MARK}{base64.b64encode(struct.pack(_NUMBERS, *told)).decode()}"


def written(kind: str, names: Iterable[str]) -> Iterator[str]:
    """As few payloads as these (`named`) go into."""
    payload = kind
    for name in names:
        if len(payload) + 1 + len(name) > _MOST:
            yield payload
            payload = kind
        payload += " " + name
    if payload != kind:
        yield payload


def read(payload: str) -> tuple[str, list[bytes], dict[bytes, HighWater]]:
    """Its kind, its topics, and how far some of them are.

    Raises:
        ValueError: it is none of ours.
    """
    kind, *names = payload.split(" ")
    topics: list[bytes] = []
    told: dict[bytes, HighWater] = {}
    for name in names:
        content = base64.b64decode(name.removeprefix(_MARK))
        if name.startswith(_MARK) and topics:
            if len(content) != struct.calcsize(_NUMBERS):
                raise ValueError(name)
            told[topics[-1]] = HighWater(*struct.unpack(_NUMBERS, content))
        else:
            topics.append(content)
    return kind, topics, told
