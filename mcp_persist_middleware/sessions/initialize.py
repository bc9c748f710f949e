"""The application's answer to `initialize`: what it promised for the session's life."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any, Self

from mcp_persist_middleware import asgi
from mcp_persist_middleware.protocol import coding, headers, sse

MAX_GREETING = asgi.MAX_ANSWER
"""The largest answer (bytes) that is looked at, when a session begins and when it comes back."""
# The server's name and version are not among it: a deployment changes them, and breaks nothing.
_PROMISES = ("protocolVersion", "capabilities")


@dataclass(frozen=True, slots=True)
class InitializeResult:
    """The parts of the result that have to stay as they are."""

    version: str
    fingerprint: str

    @classmethod
    def parse(cls, raw: headers.RawHeaders, body: bytes) -> Self | None:
        """The greeting in an answer, JSON or event stream; None while it is not complete, and for
        an error."""
        if headers.media_type(raw) == headers.EVENT_STREAM:
            frames = sse.FrameParser(MAX_GREETING).feed(body) if len(body) <= MAX_GREETING else []
            found = (cls._of(frame.data) for frame in frames)
            return next((greeting for greeting in found if greeting is not None), None)
        return cls._of(coding.plain(raw, body, MAX_GREETING))

    @classmethod
    def _of(cls, data: bytes) -> Self | None:
        try:
            message: Any = json.loads(data)
        except (ValueError, RecursionError):
            return None
        match message:
            case {"result": {"protocolVersion": str(version), **result}}:
                promised = {"protocolVersion": version, **result}
                text = json.dumps([promised.get(name) for name in _PROMISES], sort_keys=True)
                digest = hashlib.blake2b(text.encode(), digest_size=16)
                return cls(version, digest.hexdigest())
            case _:
                return None
