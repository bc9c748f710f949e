"""A store in which there is something of everything, and commands on it in this process."""

import contextlib
import dataclasses
import io
import json
import os
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any
from unittest import mock

from mcp_persist_middleware.log.base import EventLog
from mcp_persist_middleware.log.codecs.coded import CodedLog
from mcp_persist_middleware.log.journal import JournalEntry, new_id
from mcp_persist_middleware.model import (
    Ending,
    Event,
    EventKind,
    JobCreation,
    Owner,
    SessionKey,
    SessionRecord,
    StreamKind,
    StreamRecord,
    StreamState,
    StreamWrite,
)
from mcp_persist_middleware.ops import cli
from mcp_persist_middleware.ops.records import name_of
from mcp_persist_middleware.protocol import sse
from mcp_persist_middleware.protocol.event_id import new_stream_id
from mcp_persist_middleware.settings import Settings
from mcp_persist_middleware.stores.connect import make_log
from mcp_persist_middleware.testing.contract.builders import events, new, record
from mcp_persist_middleware.testing.contract.cases.jobs import BOUNDS, job

WORKER, GONE = "5e1f00d5c0ffee01", "deadbeefdeadbeef"
SESSION = "8f2d1c34a5b64e7f9d0a1b2c3d4e5f60"
ANN, BOB = "ann", "bob"


@dataclass(frozen=True, slots=True)
class Ran:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


def run(*arguments: str, environ: Mapping[str, str] | None = None) -> Ran:
    """Run a command as a person does who has exported some variables, and no others of ours."""
    others = {k: v for k, v in os.environ.items() if not k.startswith("MCP_PERSIST_")}
    others |= {"COLUMNS": "80", "TERM": "dumb", **(environ or {})}
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.dict(os.environ, others, clear=True),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        code = cli.main(arguments)
    return Ran(code, out.getvalue(), err.getvalue())


@dataclass(slots=True)
class Scene:
    """A store, and the names of what is in it."""

    environ: dict[str, str]
    log: EventLog
    finished: str = ""
    running: str = ""
    orphan: str = ""
    lacking: str = ""
    listening: str = ""

    def run(self, *arguments: str, **environ: str) -> Ran:
        """Run a command on this store."""
        return run(*arguments, environ=self.environ | environ)

    async def begin(
        self, *events: Event, age: float = 60.0, worker: str = WORKER, **more: Any
    ) -> StreamRecord:
        """A stream that goes on."""
        owner = Owner(*(more.pop(n, d) for n, d in _OWNER.items()))
        now = self.log.now()
        record = StreamRecord(
            id=new_stream_id(now - age),
            kind=more.pop("kind", StreamKind.POST),
            owner=owner,
            epoch=1,
            state=StreamState.OPEN,
            last_sequence=0,
            worker=worker,
            created_at=now - age,
            ended_at=None,
            expires_at=None,
            request_ids="[1]",
            trace="",
        )
        await self.log.append([StreamWrite(record.id, 1, create=record, events=events, **more)])
        return record

    async def finish(self, record: StreamRecord, last: int, *, ago: float, ttl: float) -> None:
        """The end of a stream, some time ago."""
        now = self.log.now() - ago
        ending = Ending(StreamState.COMPLETE, last, now, now + ttl)
        await self.log.append([StreamWrite(record.id, 1, ending=ending)])

    async def note(self, record: StreamRecord, ago: float, tool: str, **more: Any) -> None:
        """A row of the journal, of a call that ended some time ago."""
        ended = self.log.now() - ago
        made = JournalEntry(
            id=new_id(ended),
            began=ended - more.setdefault("duration", 0.25),
            first_event=0.125,
            method="tools/call",
            tool=tool,
            version="2025-11-25",
            outcome=more.pop("outcome", "ok"),
            error="",
            size=1234,
            resumes=1,
            stream=record.id,
            owner=record.owner,
            worker=WORKER,
            trace="",
            **more,
        )
        assert self.log.journal is not None
        await self.log.journal.write([made])

    async def keep_requests(self) -> None:
        """A stream whose request may be run again, and a job with what its client has answered."""
        kept = dataclasses.replace(record(), request=b'{"method":"tools/call"}')
        await self.log.append([new(kept, *events(1, 1))])
        assert self.log.jobs is not None
        made = job(self.log, kept, request=b'{"method":"tools/call"}', inputs=b'{"a":1}')
        assert await self.log.jobs.create(made, *BOUNDS) is JobCreation.CREATED

    async def session(self, name: str, principal: str = ANN, namespace: str = "default") -> None:
        """A session that lives."""
        await self.log.sessions.create(
            SessionRecord(
                key=SessionKey(namespace, "/mcp", name),
                principal=principal,
                version="2025-11-25",
                initialize=b'{"method":"initialize"}',
                generation=1,
                home=WORKER,
                expires_at=self.log.now() + 86_000,
            )
        )


_OWNER = {"namespace": "default", "path": "/mcp", "session": SESSION, "principal": ANN}


def progress(number: int) -> Event:
    """One step of a call."""
    message = {"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progress": number}}
    return Event(number, 1, EventKind.NOISE, sse.event(json.dumps(message).encode()))


def answer(number: int) -> Event:
    """The answer of a call."""
    message = {"jsonrpc": "2.0", "id": 1, "result": {"content": [{"type": "text", "text": "42"}]}}
    return Event(number, 1, EventKind.RESPONSE, sse.event(json.dumps(message).encode()))


@contextlib.asynccontextmanager
async def played(given: Mapping[str, str]) -> AsyncIterator[Scene]:
    """A store with a worker that lives, one that has gone, and their streams.

    Args:
        given: settings.
    """
    # No test is to take so long that the worker looks silent.
    settings = Settings.load(dict(given) | {"lease_seconds": 3600})
    log = CodedLog(make_log(settings), settings)
    environ = {f"MCP_PERSIST_{k.upper()}": v for k, v in given.items()}
    scene = Scene(environ | {"MCP_PERSIST_LEASE_SECONDS": "3600"}, log)
    await log.open(WORKER)
    try:
        await scene.session(SESSION)
        steps = [progress(n) for n in (1, 2, 3)]
        done = await scene.begin(*steps, answer(4), age=120)
        await scene.finish(done, 4, ago=100, ttl=86_400)
        running = await scene.begin(*steps, age=600)
        orphan = await scene.begin(steps[0], age=30, worker=GONE)
        long = await scene.begin(*(progress(n) for n in range(1, 9)), age=20)
        await log.append([StreamWrite(long.id, 1, trim=5)])
        get = await scene.begin(age=700, kind=StreamKind.GET)
        await scene.note(done, 100, "add", duration=1.5)
        await scene.note(running, 40, "sub", outcome="tool_error", params=b'{"path":"/etc"}')
        for name, record in zip(_NAMES, (done, running, orphan, long, get), strict=True):
            setattr(scene, name, name_of(record.id))
        yield scene
    finally:
        await log.aclose()


_NAMES = [f.name for f in dataclasses.fields(Scene)][2:]
