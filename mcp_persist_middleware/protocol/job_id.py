"""The id of a job on the wire: 32 characters of `[A-Za-z0-9_-]`, opaque to clients."""

import base64
import re
import secrets

from mcp_persist_middleware.model import JOB_ID_BYTES
from mcp_persist_middleware.protocol import event_id

_TEXT = re.compile(r"[A-Za-z0-9_-]{32}", re.ASCII)


def new(now: float) -> bytes:
    """An id that orders jobs by their age and cannot be guessed: of all that is known of somebody
    it may be the only thing that lets him in.

    Args:
        now: the time in the store.
    """
    begin = event_id.earliest(now)
    return begin + secrets.token_bytes(JOB_ID_BYTES - len(begin))


def name(job: bytes) -> str:
    """As clients know it."""
    return base64.urlsafe_b64encode(job).decode()


def parse(text: str) -> bytes | None:
    """The id in a text, None for every other text."""
    return base64.urlsafe_b64decode(text) if _TEXT.fullmatch(text) else None
