"""What a request is a question about, and which question of the application it answers: that is
known by its state, which often only the worker can read that asked."""

import json

from mcp_persist_middleware.asgi.asked import Asked
from mcp_persist_middleware.model import JobFace
from mcp_persist_middleware.protocol import job_id, jsonrpc
from mcp_persist_middleware.streams.context import Context
from mcp_persist_middleware.tasks import state
from mcp_persist_middleware.tasks.state import JobStatus

_QUESTIONS = frozenset({"tasks/get", "tasks/result", "tasks/list"})


def only_asks(asked: Asked) -> bool:
    """Whether a request asks about tasks and does nothing: it may be asked again of another worker,
    and an error of the one that did not answer would be taken for the end of the task."""
    call = asked.request.call
    return call is not None and call.method in _QUESTIONS


async def state_of(context: Context, asked: Asked) -> str:
    """The state that a request carries, or, of one that answers a task's questions, that which the
    application gave with them; empty of any other.

    Raises:
        StoreError: the store does not answer.
    """
    call, jobs = asked.request.call, context.log.jobs
    if call is None or call.state or call.method != "tasks/update" or jobs is None:
        return call.state if call is not None else ""
    if asked.request.era.tasks is not JobFace.EXTENSION or not asked.body.complete:
        return ""
    task = jsonrpc.params(asked.body.content).get("taskId")
    job = job_id.parse(task) if isinstance(task, str) else None
    found = await jobs.find(job) if job is not None else None
    if found is None or not context.member.peers.has_peers(context.member.name):
        return ""
    # Whose it is the worker sees that has to answer.
    now = await state.look(context, found)
    if now.status is not JobStatus.INPUT_REQUIRED:
        return ""
    given = json.loads(now.answer).get("requestState")
    return given if isinstance(given, str) else ""
