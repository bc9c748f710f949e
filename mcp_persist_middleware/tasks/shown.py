"""A task as its client is shown it, whichever revision it speaks."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from mcp_persist_middleware.model import JobRecord
from mcp_persist_middleware.protocol import job_id
from mcp_persist_middleware.tasks.state import JobState

# A client is asked to come back this soon (milliseconds) while its task is younger than so many
# seconds.
_PACE: Sequence[tuple[float, int]] = ((10.0, 1000), (60.0, 2000), (600.0, 5000))
_SLOWEST = 15_000


def poll_ms(age: float) -> int:
    """How soon a client should ask again for a task of this age (seconds), in milliseconds."""
    return next((pace for until, pace in _PACE if age < until), _SLOWEST)


def iso(at: float) -> str:
    """A time as clients read it."""
    told = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")
    return told.replace("+00:00", "Z")


def task(job: JobRecord, state: JobState, now: float, *, unit: str = "") -> dict[str, Any]:
    """What both revisions say of it.

    Args:
        unit: what ends the names of durations, which are milliseconds in both.
    """
    told: dict[str, Any] = {
        "taskId": job_id.name(job.id),
        "status": str(state.status),
        "createdAt": iso(job.created_at),
        "lastUpdatedAt": iso(max(state.updated_at, job.created_at)),
        f"ttl{unit}": int((job.expires_at - job.created_at) * 1000),
        f"pollInterval{unit}": poll_ms(now - job.created_at),
    }
    if state.message:
        told["statusMessage"] = state.message
    return told
