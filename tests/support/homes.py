"""Several workers on one store, all on the test's own event loop."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

from mcp_persist_middleware.model import WorkerState
from mcp_persist_middleware.persistence import access_to
from mcp_persist_middleware.sessions.registry import Registry
from mcp_persist_middleware.worker import Parts
from tests.support.scripted import persisted, until
from tests.support.session import RawSession
from tests.support.stateful import Stateful


@dataclass(frozen=True)
class Worker:
    """One of several in this process."""

    app: Stateful
    port: int
    parts: Parts

    @property
    def registry(self) -> Registry:
        """Its sessions."""
        return self.parts.sessions

    async def shut_down(self, *others: "Worker") -> None:
        """Begin to, and let the others see it."""
        context = self.parts.exchanges
        context.drain.begin()
        for other in others:
            seen, name = other.parts.exchanges.member.peers._failure_detector, context.member.name
            state = WorkerState.DRAINING
            await until(lambda seen=seen: name in seen.beats and seen.beats[name].state is state)


@contextlib.asynccontextmanager
async def workers(url: str, *apps: Stateful) -> AsyncIterator[list[Worker]]:
    """A worker for each application, all on one store."""
    async with contextlib.AsyncExitStack() as opened:
        found = []
        for number, app in enumerate(apps):
            more = {"retry_ms": 1000 + number, "drain_seconds": 20.0}
            port, persistence = await opened.enter_async_context(persisted(app, url, **more))
            found.append(Worker(app, port, await access_to(persistence).parts()))
        yield found


def on(session: RawSession, worker: Worker) -> RawSession:
    """The same session, asked of this worker."""
    return replace(session, port=worker.port)
