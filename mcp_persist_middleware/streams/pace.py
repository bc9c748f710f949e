"""How soon a client is asked back."""

from mcp_persist_middleware.model import StreamKind
from mcp_persist_middleware.protocol.eras import Era
from mcp_persist_middleware.streams.context import Context

# Official clients try twice, so far apart, and some wait for ever after that.
_SOON_MS = 1000


def retry_ms(context: Context, era: Era, kind: StreamKind) -> int:
    """For a connection that breaks without a word (milliseconds): soon, where another worker
    answers if this one is gone; else as late as a restart takes, which is when two attempts that
    came soon would both have failed. Nobody waits for what a session's own stream brings. Whoever
    is sent away by a worker that stops is told `retry_ms` in any case."""
    longest = era.retry_ms(context.settings)
    is_soon = kind is StreamKind.POST and context.member.peers.has_peers(context.member.name)
    return min(longest, _SOON_MS) if is_soon else longest
