"""`tasks`: calls that are asked for by an id or a key, and what has become of them."""

import contextlib
import json
from collections.abc import AsyncIterator
from typing import Annotated, Any

import typer

from mcp_persist_middleware.errors import ConfigurationError
from mcp_persist_middleware.log.base import EventLog
from mcp_persist_middleware.log.codecs.chain import Chain
from mcp_persist_middleware.log.jobs import Jobs
from mcp_persist_middleware.model import JobRecord
from mcp_persist_middleware.ops import command, stores
from mcp_persist_middleware.ops.inspected_log import InspectedLog
from mcp_persist_middleware.ops.options import Limit
from mcp_persist_middleware.ops.output import Column, Output, ago, moment
from mcp_persist_middleware.ops.records import NotFoundError
from mcp_persist_middleware.ops.store_options import StoreOptions
from mcp_persist_middleware.protocol import job_id
from mcp_persist_middleware.protocol.event_id import name_of
from mcp_persist_middleware.settings import Settings
from mcp_persist_middleware.stores.sql.inspection import Inspection
from mcp_persist_middleware.tasks import jobs, state
from mcp_persist_middleware.tasks.state import JobState, JobStatus

_COLUMNS = (
    Column("task", "TASK"),
    Column("tool", "TOOL"),
    Column("status", "STATUS"),
    Column("age", "BEGUN", lambda seconds: f"{ago(seconds)} ago", right=True),
    Column("message", "MESSAGE"),
)
_FACTS = (
    *_COLUMNS[:3],
    Column("face", "ASKED FOR BY"),
    Column("message", "MESSAGE"),
    Column("namespace", "NAMESPACE"),
    Column("path", "PATH"),
    Column("session", "SESSION"),
    Column("principal", "PRINCIPAL"),
    Column("worker", "WORKER"),
    Column("stream", "STREAM"),
    Column("created_at", "BEGUN"),
    Column("updated_at", "CHANGED"),
    Column("expires_at", "EXPIRES"),
)
_TaskId = Annotated[str, typer.Argument(metavar="TASK", help="Its id, as its client knows it.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    tasks = typer.Typer(no_args_is_help=True, help="List, show and cancel tasks.")
    command.add(tasks, list_tasks, "list")
    command.add(tasks, show, "show")
    command.add(tasks, result, "result")
    command.add(tasks, cancel, "cancel")
    app.add_typer(tasks, name="tasks", rich_help_panel=command.LOOK)


async def list_tasks(
    store: StoreOptions,
    out: Output,
    status: Annotated[
        JobStatus | None, typer.Option(help="Of the newest, those in this state alone.")
    ] = None,
    limit: Limit = 20,
) -> None:
    """List tasks, and other calls that are asked for later, the newest first."""
    async with _looked_at(store.settings()) as (inspection, log):
        found = await inspection.jobs(limit)
        rows = [_row(job, await state.seen(log, job), log.now()) for job in found]
    out.table(
        _COLUMNS, [r for r in rows if status in (None, r["status"])], "There is no such task."
    )


async def show(store: StoreOptions, out: Output, task: _TaskId) -> None:
    """Show a task, without what it has answered."""
    async with _looked_at(store.settings()) as (inspection, log):
        job = await _seek(inspection, task)
        out.facts(_FACTS, _row(job, await state.seen(log, job), log.now()))


async def result(store: StoreOptions, out: Output, task: _TaskId) -> bool:
    """Print what a task has answered, as the application wrote it. Exit code 1 when it has not."""
    async with _looked_at(store.settings()) as (inspection, log):
        found = await state.seen(log, await _seek(inspection, task))
    if not found.answer:
        out.facts((Column("status", "It has no result:"),), {"status": str(found.status)})
        return True
    if out.as_json:
        out.json({"status": str(found.status), "answer": json.loads(found.answer)})
    else:
        out.say(found.answer.decode("utf-8", "replace"))
    return False


async def cancel(store: StoreOptions, out: Output, task: _TaskId) -> bool:
    """Cancel a task, as its client does with tasks/cancel; the worker that runs it hears of it.

    Exit code 1 when it had ended before.
    """
    settings = store.settings()
    async with stores.opened(settings) as log:
        job = await _find(log, task)
        before = await state.seen(log, job)
        await jobs.cancel_elsewhere(log, job, settings, "")
        found = await state.seen(log, await _find(log, task))
    done = found.status is JobStatus.CANCELLED and not before.status.is_over
    title = "Cancelled:" if done else "Had ended before:"
    out.facts((Column("task", title),), {"task": task, "cancelled": done})
    return not done


@contextlib.asynccontextmanager
async def _looked_at(settings: Settings) -> AsyncIterator[tuple[Inspection, InspectedLog]]:
    """A look at the store, and at its streams."""
    async with stores.inspected(settings) as inspection:
        now = await inspection.now()
        yield inspection, InspectedLog(inspection, Chain(settings), now)


async def _seek(inspection: Inspection, task: str) -> JobRecord:
    name = job_id.parse(task)
    found = await inspection.job(name) if name is not None else None
    if found is None:
        raise NotFoundError(what="task", name=task, url=inspection.name)
    return found


def _jobs_of(log: EventLog) -> Jobs:
    if log.jobs is None:
        raise ConfigurationError(reason=f"the store {log.name} keeps no tasks")
    return log.jobs


async def _find(log: EventLog, task: str) -> JobRecord:
    job = job_id.parse(task)
    found = await _jobs_of(log).find(job) if job is not None else None
    if found is None:
        raise NotFoundError(what="task", name=task, url=log.name)
    return found


def _row(job: JobRecord, found: JobState, now: float) -> dict[str, Any]:
    owner = job.owner
    return {
        "task": job_id.name(job.id),
        "tool": job.tool,
        "status": str(found.status),
        "face": str(job.face),
        "message": found.message or None,
        "namespace": owner.namespace,
        "path": owner.path,
        "session": owner.session or None,
        "principal": owner.principal or None,
        "worker": job.worker,
        "stream": name_of(job.stream),
        "created_at": moment(job.created_at),
        "updated_at": moment(max(job.updated_at, found.updated_at)),
        "expires_at": moment(job.expires_at),
        "age": round(now - job.created_at, 3),
    }
