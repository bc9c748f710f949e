"""Every setting, its default and its meaning."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from mcp_persist_middleware.keyring import Keyring
from mcp_persist_middleware.model import Owner
from mcp_persist_middleware.settings import loading, units
from mcp_persist_middleware.settings.arguments import (
    Compression,
    ExpiresOf,
    ModernStreams,
    NamespaceOf,
    OnStoreFailure,
    PersistOf,
    PrincipalOf,
    RelayScope,
    RerunOf,
    SessionFallback,
    SessionRouting,
    Synchronous,
    TasksFor,
)
from mcp_persist_middleware.settings.given import shown
from mcp_persist_middleware.settings.namespaces import ByNamespace, in_namespace

_KIB, _MIB = 1024, 1024 * 1024


def _setting(
    default: Any,
    *,
    low: float | None = None,
    none: bool = False,
    unit: units.Unit | None = None,
    by_namespace: bool = False,
) -> Any:
    told = {"low": low, "none": none, "unit": unit, "by_namespace": by_namespace}
    return field(default=default, metadata=told)


def _seconds(
    default: float | None, *, low: float = 0, none: bool = False, by_namespace: bool = False
) -> Any:
    return _setting(default, low=low, none=none, unit=units.SECONDS, by_namespace=by_namespace)


def _milliseconds(default: int) -> Any:
    return _setting(default, low=0, unit=units.MILLISECONDS)


def _bytes(default: int, *, low: int) -> Any:
    return _setting(default, low=low, unit=units.BYTES)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Settings:
    """A checked configuration. Times are seconds unless the name says otherwise."""

    enabled: bool = _setting(True)
    """False: everything but `health_path` passes through, and no store is opened."""
    url: str | None = _setting(None, none=True)
    """The store, any SQLAlchemy URL or a file name."""
    engine: AsyncEngine | None = _setting(None, none=True)
    """An engine of yours; never closed."""
    log: Callable[["Settings"], object] | None = _setting(None, none=True)
    """Instead of `url`, a store of yours: a callable of the `Settings` that makes an `EventLog`."""
    synchronous: Synchronous = _setting("normal")
    """SQLite: `normal` survives the death of the process, `full` the loss of power."""
    redis: str | None = _setting(None, none=True)
    """A Redis in front of the store: `redis://host:6379/0`."""
    compression: Compression | None = _setting(None, none=True)
    """`zstd` or `gzip`: compress what is stored, where that makes it smaller."""
    compress_min_bytes: int = _bytes(1024, low=0)
    """`compression` leaves what is smaller as it is."""
    encryption_keys: Keyring | None = _setting(None, none=True)
    """Encrypt what is stored: keys by name, the current one first, or `"file:…"` with a
    `name:base64` on each line."""
    table_prefix: str = _setting("mcp_")
    """The beginning of every table's name."""
    namespace: str | NamespaceOf = _setting("default")
    """Keeps apart what shares a store; or a callable: names a request's namespace."""
    paths: tuple[str, ...] | None = _setting(None, none=True)
    """Only these paths and what is below them (default: found by itself)."""
    health_path: str | None = _setting(None, none=True)
    """Where this worker says whether it can serve, also at `/live` and `/ready` below: `/healthz`
    in the proxy, and behind the application's own routes in `with_persistence`."""
    persist: PersistOf | None = _setting(None, none=True)
    """Callable: false exempts this request."""
    principal: PrincipalOf | None = _setting(None, none=True)
    """Callable: names the caller whom streams belong to."""
    identity_headers: tuple[str, ...] = _setting(())
    """Headers that name the caller, beside those that authenticating proxies are known for."""
    expires: ExpiresOf | None = _setting(None, none=True)
    """Callable: when (seconds since the Unix epoch) its caller's authorisation ends, and with it
    what it listens to; default: the `expires_at` of the access token in its scope."""
    modern_streams: ModernStreams = _setting("resume")
    """2026-07-28 streams: `resume` gives them ids, `pass` leaves them alone."""
    retry_ms: int = _milliseconds(3000)
    """How long clients wait before they come back; for an answer, 1 s at most while another worker
    is there."""
    # Clients try twice: the first time within `disconnect_grace`, the second after a restart.
    modern_retry_ms: int = _milliseconds(2000)
    """How long clients of 2026-07-28 wait before they come back, in the same way."""
    ping_seconds: float = _seconds(15.0)
    """Keep-alive comments; 0 sends none."""
    prime_after: float | None = _seconds(1.0, none=True)
    """Open the stream of an answer that is this late."""
    prime_json: bool = _setting(False)
    """`prime_after` also where the app answers in JSON mode."""
    session_ttl: float = _seconds(86_400.0, low=1)
    """A session lives this long without use."""
    brief_session_ttl: float = _seconds(600.0, low=1)
    """A session that had no more than `initialize` and a call or two lives this long without
    use."""
    max_sessions: int = _setting(1000, low=1)
    """Sessions kept of one principal, or of one address where there is none."""
    max_listeners: int = _setting(1000, low=1)
    """Connections of one principal, or of one address where there is none, that wait on GET streams
    and listens of one worker; for one more the oldest ends."""
    session_fallback: SessionFallback | None = _setting(None, none=True)
    """`principal`: a request up to 2025-11-25 that names no session is served in the latest one of
    its principal."""
    revive: bool | PersistOf = _setting(True)
    """Bring sessions back that the application does not hold; or a callable."""
    session_routing: SessionRouting = _setting("relay")
    """A session that another worker holds: `relay` its requests to it, `revive` it here, or
    `local`: never bring one back."""
    relay_scope: RelayScope | None = _setting(None, none=True)
    """(dump, load): carry what outer middleware set to the session's worker."""
    rerun: RerunOf | None = _setting(None, none=True)
    """Callable (session, request): true runs a request again whose worker died, when its client
    comes back."""
    rerun_seconds: float = _seconds(60.0)
    """How long a request that may be run again waits for its client before it ends with an
    error."""
    tasks: bool = _setting(True)
    """Give clients of 2026-07-28 that know tasks one for a call that takes long, where the
    application has none itself."""
    tasks_after: float = _seconds(10.0)
    """A call that is not answered by then becomes a task; 0 at once."""
    tasks_for: tuple[str, ...] | TasksFor | None = _setting(None, none=True)
    """Tools whose calls may become tasks (default: all); or a callable of tool and arguments."""
    tasks_ttl: float = _seconds(86_400.0, low=1)
    """A task and its result are kept this long from its beginning; what still runs then ends."""
    hand_back: float | None = _seconds(None, low=0.05, none=True)
    """A tool's call of a client without tasks that is not answered by then is answered with the
    word to call again with the same arguments (default: never)."""
    hand_back_for: tuple[str, ...] | TasksFor | None = _setting(None, none=True)
    """Tools whose calls may be handed back so (default: all); or a callable of tool and
    arguments."""
    hand_back_ttl: float = _seconds(60.0)
    """The result of a call that was handed back answers the same call for so long after it was
    fetched; then the tool runs anew."""
    idempotency: bool = _setting(False)
    """A call with an `Idempotency-Key` runs once: whoever repeats it gets the answer of the first,
    for `tasks_ttl`."""
    max_jobs: int = _setting(1000, low=1)
    """Tasks, and other calls that are asked for later, of one principal, or of one address where
    there is none."""
    max_jobs_in_all: int = _setting(100_000, low=1)
    """The same of all together."""
    detach_seconds: float = _seconds(3600.0)
    """Work goes on this long without a reader."""
    share_hints: bool = _setting(True)
    """A `subscriptions/listen` hears of changes on every worker; False: of its own worker's."""
    missed_hints: float = _seconds(30.0)
    """A `subscriptions/listen` that comes back within this time hears of what it missed; 0: it does
    not."""
    disconnect_grace: float = _seconds(4.0)
    """2026-07-28: a client that is back within this time has not cancelled."""
    send_timeout: float = _seconds(30.0, low=0.1)
    """A client that takes nothing this long is cut."""
    resume_rotate: float | None = _seconds(2.0, low=0.05, none=True)
    """A resumed connection that delivered ends cleanly this often."""
    drain_seconds: float = _seconds(8.0)
    """How long calls may go on after SIGTERM."""
    ttl: float | ByNamespace = _seconds(86_400.0, by_namespace=True)
    """A stream is kept this long after its end; by namespace, or a callable of its name."""
    anonymous_ttl: float = _seconds(300.0)
    """A stream without session and principal is kept this long after its end."""
    max_stream_events: int = _setting(10_000, low=16)
    """Events kept of one stream."""
    max_stream_bytes: int = _bytes(64 * _MIB, low=64 * _KIB)
    """Bytes kept of one stream."""
    max_kept_streams: int | ByNamespace | None = _setting(
        None, low=0, none=True, unit=units.STREAMS, by_namespace=True
    )
    """Streams kept of one namespace after their end, the newest; by namespace, or a callable of its
    name."""
    max_kept_bytes: int | ByNamespace | None = _setting(
        None, low=0, none=True, unit=units.BYTES, by_namespace=True
    )
    """Bytes kept of the events of these streams, in the same way."""
    max_store_bytes: int | None = _setting(None, low=_MIB, none=True, unit=units.BYTES)
    """Bytes of the whole store: above it the oldest streams that have ended go, whatever `ttl`
    says."""
    journal: bool = _setting(False)
    """Keep a row for each exchange that has ended: what was called, how it ended, what it took."""
    journal_params: tuple[str, ...] = _setting(())
    """Parameters of calls whose values the journal keeps: `name` of every tool, `tool:name` of
    one."""
    journal_ttl: float = _seconds(7 * 86_400.0, low=1)
    """A row of the journal is kept this long."""
    max_journal_rows: int = _setting(200_000, low=1)
    """Rows of the journal that are kept, the newest."""
    max_event_bytes: int = _bytes(64 * _MIB, low=64 * _KIB)
    """The largest event."""
    max_body_bytes: int = _bytes(4 * _MIB, low=_KIB)
    """Larger request bodies pass through."""
    max_detached: int = _setting(10_000, low=1)
    """Exchanges that may run without a reader; then the newest of whoever has the most end."""
    max_detached_of_one: int = _setting(1000, low=1)
    """The same of one principal, or of one address where there is none."""
    run_ahead_events: int = _setting(256, low=1)
    """Events of one stream that wait for the store."""
    run_ahead_bytes: int = _bytes(1 * _MIB, low=1)
    """Bytes of one stream that wait for the store."""
    store_timeout: float = _seconds(5.0, low=0.05)
    """How long a failing store is tried."""
    lease_seconds: float = _seconds(10.0, low=1)
    """A worker that stands still this long is taken for dead."""
    on_store_failure: OnStoreFailure = _setting("degrade")
    """`degrade`: go on live, without ids; `refuse`: errors."""
    purge_interval: float = _seconds(60.0, low=0.05)
    """How often retention runs."""

    @property
    def least_kept(self) -> float:
        """The shortest time that anything is kept once it has ended; what a callable says is not
        asked for."""
        ttl = self.ttl
        values = ttl.values if isinstance(ttl, ByNamespace) else (ttl,)
        return float(min(self.anonymous_ttl, *values))

    def kept_for(self, owner: Owner) -> float:
        """How long (seconds) a stream is kept after its end, however it comes to it: one that
        anybody may read who has its id is not kept for long."""
        ttl: float = in_namespace(self.ttl, owner.namespace)
        return ttl if owner.is_known else min(ttl, self.anonymous_ttl)

    def __repr__(self) -> str:
        """What differs from the default, without anything that may be secret."""
        told = (
            f"{f.name}={shown(f.name, getattr(self, f.name))}"
            for f in fields(self)
            if getattr(self, f.name) != f.default
        )
        return f"Settings({', '.join(told)})"

    @classmethod
    def load(cls, given: Mapping[str, Any], environ: Mapping[str, str] = os.environ) -> "Settings":
        """Merge arguments, environment and defaults, and check every value.

        Raises:
            ConfigurationError: a name or a value is wrong; the text says which and what to do.
        """
        known = {f.name: f for f in fields(cls)}
        settings = cls(**loading.merged(known, given, environ))
        if settings.enabled:
            loading.check_together(settings, given)
        return settings
