"""What is known of an exchange when it is over."""

import enum
from typing import NamedTuple

from mcp_persist_middleware.model.streams import Owner


class ExchangeOutcome(enum.StrEnum):
    """How an exchange ended."""

    OK = "ok"
    TOOL_ERROR = "tool_error"
    """The tool was run, and its result says `isError`."""
    ERROR = "error"
    """A JSON-RPC error, an HTTP error, or an exception of the application."""
    CANCELLED = "cancelled"
    """The client cancelled it, or left where that means the same."""
    INTERRUPTED = "interrupted"
    """No answer of the application's: it ended without one, was stopped, or its worker is gone."""


class FinishedExchange(NamedTuple):
    """One request of a client and its answer, when the answer is complete. It holds no payload but
    `params`; `owner`, `stream` and `trace` name somebody or something, and are for no metric."""

    method: str
    """The method as the client has written it; empty where that is not known any more."""
    name: str
    """The tool, prompt or resource that was meant, as the client has written it, or empty."""
    version: str
    """The protocol revision as the client has said it, or empty."""
    outcome: ExchangeOutcome
    error_type: str
    """By OpenTelemetry's conventions: the JSON-RPC error code, `tool_error`, an HTTP status, the
    name of an exception; empty where nothing failed."""
    began_at: float
    """When it began (seconds since the Unix epoch, by this host's clock)."""
    first_after: float | None
    """How long (seconds) the first event, or part of an answer, was waited for; None when there
    was none."""
    lasted: float
    """How long it took in all (seconds)."""
    bytes_in: int
    """The size of the request's body."""
    bytes_out: int
    """The size of the answer: the frames of all events, or the body."""
    owner: Owner
    """Whose it was: namespace, path, session and principal (a keyed hash)."""
    stream: bytes | None
    """The id of the stream that it was answered with, if it was."""
    trace: str
    """The W3C `traceparent` of its span, or of the request it came with, or empty."""
    resumes: int = 0
    """How often a client came back for it on this worker while it ran."""
    params: bytes = b""
    """What the journal may keep of its parameters, as JSON; of everybody else nothing is told."""
