"""Tasks as clients of 2025-11-25 know them, as messages: the capability, the tools, the tasks, and
what goes between a task and its client.

Source: spec/2025-11-25/basic/utilities/tasks.mdx.
"""

import json
from typing import Any

from mcp_persist_middleware.model import JobRecord, RequestId
from mcp_persist_middleware.tasks import shown
from mcp_persist_middleware.tasks.changing import dumped
from mcp_persist_middleware.tasks.state import JobState, JobStatus

METHODS = frozenset({"tasks/get", "tasks/result", "tasks/list", "tasks/cancel"})
CAPABILITY: dict[str, Any] = {"list": {}, "cancel": {}, "requests": {"tools": {"call": {}}}}
RELATED = "io.modelcontextprotocol/related-task"
INVALID_PARAMS, METHOD_NOT_FOUND = -32602, -32601
UNKNOWN = "Task not found"


def has_tasks(greeting: Any) -> bool | None:
    """Whether the answer to an `initialize` says that the application has tasks itself; None where
    it is no answer of this revision."""
    match greeting:
        case {"result": {"protocolVersion": "2025-11-25", "capabilities": dict(capabilities)}}:
            return "tasks" in capabilities
        case _:
            return None


def advertise(greeting: Any) -> None:
    """Have it say that there are tasks."""
    greeting["result"]["capabilities"]["tasks"] = CAPABILITY


def offer(listing: Any, names: frozenset[str] | None) -> bool:
    """Have each tool of a `tools/list` that says nothing of it be one that may be a task; whether
    there is one.

    Args:
        names: those that may; None for all.
    """
    match listing:
        case {"result": {"tools": list(tools)}}:
            changed = [_offer_one(tool, names) for tool in tools]
            return any(changed)
        case _:
            return False


def _offer_one(tool: Any, names: frozenset[str] | None) -> bool:
    if not isinstance(tool, dict) or (names is not None and tool.get("name") not in names):
        return False
    execution = tool.get("execution")
    if execution is None:
        tool["execution"] = {"taskSupport": "optional"}
    elif isinstance(execution, dict) and "taskSupport" not in execution:
        execution["taskSupport"] = "optional"
    else:
        return False
    return True


def created(job: JobRecord, request_id: RequestId) -> bytes:
    """The `CreateTaskResult` that answers the call at once."""
    known = JobState(JobStatus.WORKING, job.updated_at)
    return response(request_id, {"task": shown.task(job, known, job.created_at)})


def response(request_id: RequestId, result: dict[str, Any]) -> bytes:
    """A JSON-RPC response."""
    return dumped({"jsonrpc": "2.0", "id": request_id, "result": result})


def refusal(request_id: RequestId, text: str, code: int = INVALID_PARAMS) -> bytes:
    """A JSON-RPC error."""
    error = {"code": code, "message": text}
    return dumped({"jsonrpc": "2.0", "id": request_id, "error": error})


def related(message: dict[str, Any], task_id: str, request_id: RequestId) -> dict[str, Any]:
    """A message of a task's call, as it reaches whoever asks for the result: with the key of the
    task, and the answer under the id of that request."""
    key = {RELATED: {"taskId": task_id}}
    name = "params" if "method" in message else "result"
    if name == "params" or "result" in message:
        part = message.get(name) or {}
        meta = part.get("_meta")
        part = {**part, "_meta": {**(meta if isinstance(meta, dict) else {}), **key}}
        message = {**message, name: part}
    return message if "method" in message else {**message, "id": request_id}


def untasked(body: bytes) -> tuple[bytes, dict[str, Any] | None]:
    """The body of a call without `params.task`, and that; the body as it is and None without."""
    message = json.loads(body)
    params = message.get("params")
    if not isinstance(params, dict) or not isinstance(params.get("task"), dict):
        return body, None
    asked = params.pop("task")
    return dumped(message), asked
