"""What every part knows of the application and of its clients: where a request goes (`scope`), what
is read of it (`body`, `attempt`), what the application has of it (`lent`), who waits for its
answer (`client`), how the application is asked something of our own (`probe`), and what we answer
ourselves (`responses`)."""

from mcp_persist_middleware.asgi.probe import (
    MAX_ANSWER,
    REFUSALS,
    Answer,
    ask,
    cancellation,
    probe_caller,
    question,
)
from mcp_persist_middleware.asgi.responses import answer_json, refuse, unavailable
from mcp_persist_middleware.asgi.scope import (
    EXTENSION,
    account_of,
    path_of,
    place_of,
    with_extension,
)

HALF_CLOSED = 1.0
"""Some servers tell of a client that has closed its half of the connection, and reads on, as of one
that has gone: what comes within so many seconds is sent all the same."""

__all__ = [
    "EXTENSION",
    "HALF_CLOSED",
    "MAX_ANSWER",
    "REFUSALS",
    "Answer",
    "account_of",
    "answer_json",
    "ask",
    "cancellation",
    "path_of",
    "place_of",
    "probe_caller",
    "question",
    "refuse",
    "unavailable",
    "with_extension",
]
