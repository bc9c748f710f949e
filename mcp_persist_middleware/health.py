"""Whether a worker can serve, and what an operator asks about it: as an object and over HTTP."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, fields

from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from mcp_persist_middleware import telemetry
from mcp_persist_middleware.log.base import EventLog
from mcp_persist_middleware.streams.context import Context
from mcp_persist_middleware.supervision import said

# Of the store's time-out, for a write, a read and a delete.
_SHARE = 0.4
# Whoever asks sooner hears the same of the store (seconds): anybody may ask.
_FRESH = 1.0
PATH = "/healthz"
"""The default where there is one."""
_LIVE, _READY = "/live", "/ready"


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """The state of one worker. Times are seconds; None is what is not known, or not there."""

    reasons: tuple[str, ...] = ()
    """Why it is not ready; nothing when it is."""
    version: str = telemetry.VERSION
    """Of this library."""
    store: str | None = None
    """The store's address without its secrets."""
    schema: int | None = None
    """The version of its tables."""
    pool_in_use: int | None = None
    """Connections of the pool that are in use."""
    pool_size: int | None = None
    """Connections that the pool keeps."""
    queued_events: int | None = None
    """Events that wait for the store."""
    commit_lag: float | None = None
    """How long the oldest commit under way has taken by now; 0 when there is none."""
    redis_up: bool | None = None
    """Whether Redis takes events now."""
    redis_backlog: int | None = None
    """Events that Redis has and the store does not have yet."""
    heartbeat_age: float | None = None
    """Since the last heartbeat that succeeded."""
    wakeups_connected: bool | None = None
    """Whether the connection is there that wakes readers; without it they look by themselves."""
    degraded_streams: int | None = None
    """Open streams that go on without the log."""
    replication_lag: float | None = None
    """Of the slowest standby, where PostgreSQL shows it to this user."""
    also: Mapping[str, object] = field(default_factory=dict)
    """What others report, see `Persistence.reports`: the circuit of a proxy, for one."""

    @property
    def is_ready(self) -> bool:
        """Whether requests may be sent to this worker."""
        return not self.reasons

    def numbers(self) -> Mapping[str, float | None]:
        """All that are known, by name."""
        found = ((f.name, getattr(self, f.name)) for f in fields(self))
        return {name: float(n) for name, n in found if isinstance(n, int | float)}

    def as_json(self) -> dict[str, object]:
        """What is known, as JSON has it; there is no secret in it."""
        status = {"status": "ready" if self.is_ready else "not ready"}
        names = [f.name for f in fields(self) if f.name != "also"]
        known = {n: getattr(self, n) for n in names if getattr(self, n) not in (None, ())}
        return {**status, **known, **self.also}


class Examiner:
    """Asks the store of one event loop whether it does what it is for, and remembers the answer
    for a moment."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._at = 0.0
        self._log: EventLog | None = None
        self._why: str | None = None

    async def trouble(self, context: Context) -> str | None:
        """Why this worker is not ready, or None when it is. Of one that is about to stop nobody
        asks the store."""
        if context.draining:
            return "it is shutting down"
        if not context.holds_lease:
            return "it has lost its lease, and begins anew"
        async with self._lock:
            if self._log is not context.log or time.monotonic() - self._at >= _FRESH:
                self._why = await _tried(context.log, _SHARE * context.settings.store_timeout)
                self._log, self._at = context.log, time.monotonic()
        return "it is shutting down" if context.draining else self._why


async def _tried(log: EventLog, seconds: float) -> str | None:
    try:
        async with asyncio.timeout(seconds):
            await log.check()
    except TimeoutError:
        return f"the store gave no answer in {seconds:g} s"
    except Exception as error:  # noqa: BLE001
        # A store of somebody else's may fail in any way.
        return said(error)
    return None


def examined(context: Context, trouble: str | None, also: Mapping[str, object]) -> Health:
    """What is known of a worker; nothing is asked."""
    log, writer = context.log, context.writer
    facts = log.facts()
    return Health(
        reasons=(trouble,) if trouble else (),
        store=log.name,
        schema=facts.schema,
        pool_in_use=facts.pool_in_use,
        pool_size=facts.pool_size,
        queued_events=writer.queued_events,
        commit_lag=writer.commit_lag,
        redis_up=facts.redis_up,
        redis_backlog=facts.redis_backlog,
        heartbeat_age=context.member.lease.age,
        wakeups_connected=log.wakeups.is_connected,
        degraded_streams=sum(stream.degraded for stream in writer.live.values()),
        replication_lag=facts.replication_lag,
        also=also,
    )


def page(path: str | None, scope: Scope) -> str | None:
    """Which page of health a request asks for: what follows `health_path`, or None."""
    if path is None or scope["type"] != "http" or scope["method"] not in ("GET", "HEAD"):
        return None
    asked: str = scope["path"]
    # A mounted application counts from where it is.
    root: str = scope.get("root_path", "")
    inside = asked.removeprefix(root)
    rest = inside.removeprefix(path)
    return rest if inside.startswith(path) and rest in ("", _LIVE, _READY) else None


async def respond(
    asked: str,
    health: Callable[[], Awaitable[Health]],
    scope: Scope,
    receive: Receive,
    send: Send,
) -> None:
    """Answer a request for a page of health. That the process lives needs no store."""
    head = {"cache-control": "no-store"}
    if asked == _LIVE:
        response = JSONResponse({"status": "live"}, headers=head)
    else:
        found = await health()
        status = 200 if found.is_ready else 503
        response = JSONResponse(found.as_json(), status, headers=head)
    await response(scope, receive, send)
