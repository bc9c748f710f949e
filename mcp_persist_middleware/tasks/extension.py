"""Tasks as clients of 2026-07-28 know them (SEP-2663), for an application that has none itself.

`tasks/get`, `tasks/update` and `tasks/cancel` are answered from the store by any worker;
`server/discover` says so on its way out.
"""

import json
from dataclasses import dataclass
from typing import Any

from mcp_persist_middleware.model import JobRecord, RequestId
from mcp_persist_middleware.protocol import jsonrpc
from mcp_persist_middleware.tasks.shown import task
from mcp_persist_middleware.tasks.state import JobState, JobStatus

METHODS = frozenset({"tasks/get", "tasks/update", "tasks/cancel"})

HEADER_MISMATCH, MISSING_CAPABILITY, INVALID_PARAMS = -32020, -32021, -32602
UNKNOWN = "Unknown or expired task"


def detailed(job: JobRecord, state: JobState, now: float) -> bytes:
    """A task with all that is known of it, as `tasks/get` and `notifications/tasks` show it: a JSON
    object, in which a result or an error stands as the application wrote it."""
    told = task(job, state, now, unit="Ms")
    match state.status:
        case JobStatus.COMPLETED:
            more = b',"result":' + state.answer
        case JobStatus.FAILED:
            more = b',"error":' + state.answer
        case JobStatus.INPUT_REQUIRED:
            told["inputRequests"] = questions(job, state)
            more = b""
        case _:
            more = b""
    return json.dumps(told, separators=(",", ":")).encode()[:-1] + more + b"}"


def questions(job: JobRecord, state: JobState) -> dict[str, Any]:
    """What the application has asked and its client has not answered yet. A key names one question
    in a task's whole life, whatever the application calls those of a later round."""
    asked = json.loads(state.answer).get("inputRequests") or {}
    answered = json.loads(job.inputs or b"{}")
    return {_named(key, job.round): it for key, it in asked.items() if key not in answered}


def _named(key: str, round: int) -> str:  # noqa: A002
    return f"{key}~{round + 1}" if round else key


def answered(job: JobRecord, state: JobState, given: dict[str, Any]) -> dict[str, Any]:
    """Of what a client answers, that to which there is a question, under the application's keys;
    with what it has answered before."""
    asked = json.loads(state.answer).get("inputRequests") or {}
    before = json.loads(job.inputs or b"{}")
    news = {key: given[name] for key in asked if (name := _named(key, job.round)) in given}
    return {**news, **before}


def created(job: JobRecord, state: JobState, now: float) -> bytes:
    """The `CreateTaskResult` that answers the call, as a JSON-RPC response."""
    body = b'{"resultType":"task",' + detailed(job, state, now)[1:]
    return response(json.loads(job.request_id), body)


def response(request_id: RequestId, result: bytes) -> bytes:
    """A JSON-RPC response with a result that is written already."""
    head = json.dumps({"jsonrpc": "2.0", "id": request_id}, separators=(",", ":")).encode()
    return head[:-1] + b',"result":' + result + b"}"


def complete(detail: bytes = b"{}") -> bytes:
    """The result of a request about a task; without detail, that it was heard."""
    rest = detail[1:]
    return b'{"resultType":"complete"' + (b"," if rest != b"}" else b"") + rest


@dataclass(frozen=True, slots=True)
class Refusal:
    """What is wrong with a request about a task."""

    code: int
    message: str
    data: dict[str, Any] | None = None

    def response(self, request_id: RequestId) -> bytes:
        """As a JSON-RPC response."""
        error: dict[str, Any] = {"code": self.code, "message": self.message}
        if self.data is not None:
            error["data"] = self.data
        told = {"jsonrpc": "2.0", "id": request_id, "error": error}
        return json.dumps(told, separators=(",", ":")).encode()


UNDECLARED = Refusal(
    MISSING_CAPABILITY,
    "Missing required client capability",
    {"requiredCapabilities": {"extensions": {jsonrpc.TASKS: {}}}},
)
NOT_FOUND = Refusal(INVALID_PARAMS, UNKNOWN)
