"""The instruments of calls, sessions and readers. Of the Model Context Protocol's own, names,
attributes and buckets are OpenTelemetry's (semantic-conventions-genai, docs/gen-ai/mcp.md, in
development)."""

from mcp_persist_middleware.telemetry.bounded import BoundedValues
from mcp_persist_middleware.telemetry.instrument import (
    BOUNDED,
    Alert,
    Section,
    counter,
    histogram,
    level,
    seconds,
)

_CONVENTION = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300)
_WAITS = seconds(0.001, 100)
_METHODS = (
    *("completion/complete", "elicitation/create", "initialize", "logging/setLevel", "ping"),
    *("prompts/get", "prompts/list", "resources/list", "resources/read", "resources/subscribe"),
    *("resources/templates/list", "resources/unsubscribe", "roots/list", "sampling/createMessage"),
    *("server/discover", "subscriptions/listen", "tasks/cancel", "tasks/get", "tasks/list"),
    *("tasks/result", "tasks/update", "tools/call", "tools/list"),
)
REVISIONS = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25", "2026-07-28")
"""The revisions that there are: whoever makes others up takes no place from these."""
_ERRORS = (
    *("-32700", "-32600", "-32601", "-32602", "-32603", "-32000", "-32001", "-32002", "-32800"),
    *("tool_error", "cancelled", "interrupted"),
)
# Who names these is a client, or the application.
BOUNDED["namespace"] = BoundedValues()
BOUNDED["mcp.method.name"] = BoundedValues(_METHODS, most=20)
BOUNDED["gen_ai.tool.name"] = BoundedValues()
BOUNDED["gen_ai.prompt.name"] = BoundedValues()
BOUNDED["mcp.protocol.version"] = BoundedValues(REVISIONS, most=10)
BOUNDED["error.type"] = BoundedValues(_ERRORS, most=50)

# Calls.

operation_seconds = histogram(
    "mcp.server.operation.duration",
    "s",
    "From a request to its complete answer",
    Section.CALLS,
    "mcp.method.name",
    "gen_ai.tool.name",
    "gen_ai.prompt.name",
    "gen_ai.operation.name",
    "mcp.protocol.version",
    "mcp_persist.outcome",
    "error.type",
    "rpc.response.status_code",
    "network.protocol.name",
    "network.protocol.version",
    "network.transport",
    buckets=_CONVENTION,
)
first_event_seconds = histogram(
    "mcp_persist.first_event.duration",
    "s",
    "From a request to the first event, or part, of its answer",
    Section.CALLS,
    "mcp.method.name",
    buckets=_CONVENTION,
)
detached = level(
    "mcp_persist.exchanges.detached",
    "{exchange}",
    "Requests that run without a reader",
    Section.CALLS,
)
early_starts = counter(
    "mcp_persist.early_starts",
    "{stream}",
    "Streams opened before the application answered",
    Section.CALLS,
)
interrupted = counter(
    "mcp_persist.streams.interrupted",
    "{stream}",
    "Streams that ended without the application's answer",
    Section.CALLS,
    "namespace",
    alert=Alert(
        "CallsInterrupted",
        0,
        "Calls ended with an error: their worker died, was stopped, or the application gave none",
    ),
)
reruns = counter(
    "mcp_persist.reruns",
    "{request}",
    "Requests run again: as the `rerun` setting says, or because they only ask",
    Section.CALLS,
    "namespace",
)
bare = counter(
    "mcp_persist.requests.bare",
    "{request}",
    "Requests that went on without this layer",
    Section.CALLS,
    "reason",
    alert=Alert("RequestsBare", 0, "Requests are served, and nothing of them is kept", page=True),
)

jobs = counter(
    "mcp_persist.jobs",
    "{job}",
    "Calls that are asked for later, by face, and what became of them",
    Section.CALLS,
    "face",
    "event",
)

jobs_ended = counter(
    "mcp_persist.jobs.ended",
    "{job}",
    "Such calls that are over: completed, application_error, cancelled, expired, worker_died, "
    "worker_stopped, store",
    Section.CALLS,
    "face",
    "outcome",
)

# Sessions.

session_seconds = histogram(
    "mcp.server.session.duration",
    "s",
    "From `initialize` to the end of a session, on whichever workers it was",
    Section.SESSIONS,
    "mcp.protocol.version",
    "mcp_persist.end",
    "network.protocol.name",
    "network.transport",
    buckets=_CONVENTION,
)
sessions = counter(
    "mcp_persist.sessions",
    "{session}",
    "Sessions that were begun, revived, taken back, refused, deleted or crowded out",
    Section.SESSIONS,
    "namespace",
    "event",
)
stale_replies = counter(
    "mcp_persist.stale_replies",
    "{message}",
    "Answers to a question of an earlier generation",
    Section.SESSIONS,
)

# Readers and resumes.

readers = level("mcp_persist.readers", "{reader}", "Clients connected to a stream", Section.READERS)
resumes = counter(
    "mcp_persist.resumes",
    "{resume}",
    "Requests with a cursor",
    Section.READERS,
    "namespace",
    "outcome",
)
replayed = counter(
    "mcp_persist.replayed.events",
    "{event}",
    "Events delivered to resumed connections",
    Section.READERS,
)
replay_seconds = histogram(
    "mcp_persist.replay.duration",
    "s",
    "Until a resumed connection has caught up",
    Section.READERS,
    buckets=_WAITS,
)
gaps = counter(
    "mcp_persist.gap.events",
    "{event}",
    "Events that retention had removed before a reader came",
    Section.READERS,
    alert=Alert("EventsGone", 0, "Clients come later than `ttl` or the bounds keep events"),
)
reader_lag_seconds = histogram(
    "mcp_persist.reader.lag",
    "s",
    "From the end of a stream on its worker to a reader on another one that waits for it",
    Section.READERS,
    buckets=_WAITS,
    alert=Alert("ReadersLag", 5, "Wake-ups between workers are lost, or the store is slow"),
)
clients_cut = counter(
    "mcp_persist.clients.cut",
    "{client}",
    "Clients that took nothing for `send_timeout`",
    Section.READERS,
)
rotations = counter(
    "mcp_persist.rotations",
    "{connection}",
    "Resumed connections ended to move the cursor on",
    Section.READERS,
)
