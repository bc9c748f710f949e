"""What the author of a store needs: the interface of an `EventLog`, and the nouns it speaks of.

`PersistMiddleware(app, log=make)` runs on such a log: `make(settings)` returns a new one, not open.
`tests/contract` in the project's repository is the suite that it has to pass.
"""

from mcp_persist_middleware.errors import StoreError, StoreUnavailableError
from mcp_persist_middleware.log.base import Answers, EventLog, MakeLog, Purged, Removed, Written
from mcp_persist_middleware.log.parts import Inbox, Sessions, WorkerTable
from mcp_persist_middleware.model import (
    Beat,
    Ending,
    Event,
    EventKind,
    Letter,
    LetterName,
    LetterState,
    LetterStatus,
    Listening,
    Outcome,
    Owner,
    Place,
    Posted,
    SessionKey,
    SessionRecord,
    Standing,
    StreamKind,
    StreamRecord,
    StreamState,
    StreamWrite,
    WorkerState,
)
from mcp_persist_middleware.settings import Settings
from mcp_persist_middleware.signals.base import Polling, Subscription, Wakeups

__all__ = [
    "Answers",
    "Beat",
    "Ending",
    "Event",
    "EventKind",
    "EventLog",
    "Inbox",
    "Letter",
    "LetterName",
    "LetterState",
    "LetterStatus",
    "Listening",
    "MakeLog",
    "Outcome",
    "Owner",
    "Place",
    "Polling",
    "Posted",
    "Purged",
    "Removed",
    "SessionKey",
    "SessionRecord",
    "Sessions",
    "Settings",
    "Standing",
    "StoreError",
    "StoreUnavailableError",
    "StreamKind",
    "StreamRecord",
    "StreamState",
    "StreamWrite",
    "Subscription",
    "Wakeups",
    "WorkerState",
    "WorkerTable",
    "Written",
]
