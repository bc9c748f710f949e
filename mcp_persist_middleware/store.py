"""What the author of a store needs: the interface of an `EventLog`, and the nouns it speaks of.

`PersistMiddleware(app, log=make)` runs on such a log: `make(settings)` returns a new one, not open.
`mcp_persist_middleware.testing.contract` is the suite that it has to pass.
"""

from mcp_persist_middleware.errors import StoreError, StoreUnavailableError, UnsupportedError
from mcp_persist_middleware.log.base import (
    Answers,
    EventLog,
    LastNumber,
    MakeLog,
    Purged,
    Removed,
    StoreFacts,
    Written,
)
from mcp_persist_middleware.log.deletions import Deletion, Reason
from mcp_persist_middleware.log.jobs import Jobs
from mcp_persist_middleware.log.journal import Journal, JournalEntry, Sought, earliest
from mcp_persist_middleware.log.parts import Inbox, Sessions, WorkerTable
from mcp_persist_middleware.log.record_log import RecordLog
from mcp_persist_middleware.log.records import Records
from mcp_persist_middleware.log.whose import Whose
from mcp_persist_middleware.model import (
    Beat,
    Certainty,
    Ending,
    EnqueueResult,
    Event,
    EventKind,
    HighWater,
    JobCreation,
    JobFace,
    JobRecord,
    Outcome,
    Owner,
    Place,
    RelayRequest,
    RelayRequestId,
    RelayState,
    RelayStatus,
    SessionKey,
    SessionRecord,
    SessionStreamState,
    StreamKind,
    StreamRecord,
    StreamState,
    StreamWrite,
    WorkerState,
)
from mcp_persist_middleware.settings import Settings
from mcp_persist_middleware.wakeups.base import ANYTHING, Polling, Subscription, Wakeups

__all__ = [
    "ANYTHING",
    "Answers",
    "Beat",
    "Certainty",
    "Deletion",
    "Ending",
    "EnqueueResult",
    "Event",
    "EventKind",
    "EventLog",
    "HighWater",
    "Inbox",
    "JobCreation",
    "JobFace",
    "JobRecord",
    "Jobs",
    "Journal",
    "JournalEntry",
    "LastNumber",
    "MakeLog",
    "Outcome",
    "Owner",
    "Place",
    "Polling",
    "Purged",
    "Reason",
    "RecordLog",
    "Records",
    "RelayRequest",
    "RelayRequestId",
    "RelayState",
    "RelayStatus",
    "Removed",
    "SessionKey",
    "SessionRecord",
    "SessionStreamState",
    "Sessions",
    "Settings",
    "Sought",
    "StoreError",
    "StoreFacts",
    "StoreUnavailableError",
    "StreamKind",
    "StreamRecord",
    "StreamState",
    "StreamWrite",
    "Subscription",
    "UnsupportedError",
    "Wakeups",
    "Whose",
    "WorkerState",
    "WorkerTable",
    "Written",
    "earliest",
]
