"""The nouns of the house: streams, jobs, sessions, workers, and what workers send each other."""

from mcp_persist_middleware.model.exchanges import ExchangeOutcome, FinishedExchange
from mcp_persist_middleware.model.jobs import (
    JOB_ID_BYTES,
    JobCreation,
    JobEnd,
    JobFace,
    JobRecord,
)
from mcp_persist_middleware.model.relay import (
    Certainty,
    EnqueueResult,
    RelayRequest,
    RelayRequestId,
    RelayState,
    RelayStatus,
)
from mcp_persist_middleware.model.sessions import (
    NOTE,
    SessionKey,
    SessionRecord,
    SessionStreamState,
)
from mcp_persist_middleware.model.streams import (
    EARLY,
    UNSURE,
    Ending,
    Event,
    EventKind,
    Outcome,
    Owner,
    Place,
    RequestId,
    StreamKind,
    StreamRecord,
    StreamState,
    StreamWrite,
    surely,
)
from mcp_persist_middleware.model.workers import Beat, WorkerState

__all__ = [
    "EARLY",
    "JOB_ID_BYTES",
    "NOTE",
    "UNSURE",
    "Beat",
    "Certainty",
    "Ending",
    "EnqueueResult",
    "Event",
    "EventKind",
    "ExchangeOutcome",
    "FinishedExchange",
    "JobCreation",
    "JobEnd",
    "JobFace",
    "JobRecord",
    "Outcome",
    "Owner",
    "Place",
    "RelayRequest",
    "RelayRequestId",
    "RelayState",
    "RelayStatus",
    "RequestId",
    "SessionKey",
    "SessionRecord",
    "SessionStreamState",
    "StreamKind",
    "StreamRecord",
    "StreamState",
    "StreamWrite",
    "WorkerState",
    "surely",
]
