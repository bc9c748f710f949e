"""Jobs: exchanges that outlive the connection of whoever asked for them, and are asked for by an id
or a key."""

import enum
from dataclasses import dataclass

from mcp_persist_middleware.model.streams import Owner

JOB_ID_BYTES = 24
"""48 bits of milliseconds and 144 random bits: see `protocol.job_id`."""


class JobFace(enum.StrEnum):
    """How its client asks for a job."""

    EXTENSION = "extension"
    """By the tasks extension of 2026-07-28."""
    CORE = "core"
    """By the tasks of 2025-11-25."""
    HAND_BACK = "hand_back"
    """By calling the same tool with the same arguments again."""
    IDEMPOTENCY = "idempotency"
    """By a key of its own."""


class JobCreation(enum.Enum):
    """What became of the attempt to create a job."""

    CREATED = "created"
    TAKEN = "taken"
    """A job with the same key, or the same id, is there."""
    FULL = "full"
    """There are as many as may be, and none of them has ended."""


class JobEnd(enum.StrEnum):
    """How a job ended."""

    COMPLETED = "completed"
    """With a result, which may say that the tool has failed."""
    APPLICATION_ERROR = "application_error"
    """The application has answered with a JSON-RPC error, raised, or given no answer."""
    CANCELLED = "cancelled"
    """Its client has cancelled it."""
    EXPIRED = "expired"
    """It still ran when its time was over."""
    WORKER_DIED = "worker_died"
    WORKER_STOPPED = "worker_stopped"
    """In order, before the answer was there."""
    STORE = "store"
    """The store was away, and calls do not go on without it."""


@dataclass(frozen=True, slots=True)
class JobRecord:
    """A job as the store knows it: whose it is, and where its stream is. What has become of it is
    in the log. Times are seconds since the Unix epoch by the store's clock."""

    id: bytes
    """Orders jobs by their age, and cannot be guessed."""
    owner: Owner
    account: str
    """Whose it is when the jobs of one caller are counted."""
    face: JobFace
    worker: str
    """Who made it, or went on with it: where its stream is not there yet, it begins there."""
    tool: str
    stream: bytes
    """The stream that answers it."""
    request_id: str
    """The JSON-RPC id of the request, as JSON."""
    created_at: float
    updated_at: float
    expires_at: float
    key: str = ""
    """A hash by which the next request for the same finds it; unique at its place among those that
    have not expired. Empty: nobody does."""
    arguments: str = ""
    """A hash of what it was asked for with, where the key does not say that."""
    request: bytes | None = None
    """The request itself, without credentials, where the application may be asked again."""
    round: int = 0
    """How often it went on after the application had asked its client something."""
    inputs: bytes = b""
    """What its client has answered so far, as JSON."""
    revision: int = 1
    """Counts the changes of this record."""
