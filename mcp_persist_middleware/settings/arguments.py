"""What `PersistMiddleware`, `Persistence` and the rest take as arguments, for editors and type
checkers. `Settings` is what becomes of it; a test compares the two, name by name.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, TypedDict

from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.requests import HTTPConnection
from starlette.types import Scope

KeySource = Mapping[str, bytes | str] | str
"""Keys by name, or a text, or the name of a file: see `Keyring.load`."""
Duration = float | str
"""Seconds, or a text such as `"90s"`, `"24h"`, `"1h30m"`, `"7d"`."""
Milliseconds = int | str
"""Milliseconds, or a text such as `"500ms"`, `"3s"`."""
Size = int | str
"""Bytes, or a text such as `"64MiB"`, `"4MB"`."""
Durations = Duration | Mapping[str, Duration] | Callable[[str], Duration]
"""The same for all namespaces, or by namespace (`"default"` for those that are not named), or a
callable of a namespace's name."""
Counts = int | Mapping[str, int | None] | Callable[[str], int | None]
"""Numbers in the same way; None for no bound."""
Sizes = Size | Mapping[str, Size | None] | Callable[[str], Size | None]
"""Sizes in the same way; None for no bound."""
Texts = list[str] | tuple[str, ...]

Synchronous = Literal["normal", "full"]
ModernStreams = Literal["resume", "pass"]
OnStoreFailure = Literal["degrade", "refuse"]
Compression = Literal["zstd", "gzip"]
SessionRouting = Literal["relay", "revive", "local"]
SessionFallback = Literal["principal"]
NamespaceOf = Callable[[HTTPConnection], str]
PrincipalOf = Callable[[HTTPConnection], str | None]
ExpiresOf = Callable[[HTTPConnection], float | None]
PersistOf = Callable[[HTTPConnection], bool]
RerunOf = Callable[[str | None, dict[str, Any]], bool]
TasksFor = Callable[[str, dict[str, Any]], bool]
RelayScope = tuple[Callable[[Scope], Any], Callable[[Scope, Any], None]]


class SettingsArguments(TypedDict, total=False):
    """Every setting but `url` and `log`, which are parameters of their own."""

    enabled: bool
    """False: everything but `health_path` passes through, and no store is opened."""
    engine: AsyncEngine | None
    """An engine of yours; never closed."""
    synchronous: Synchronous
    """SQLite: `normal` survives the death of the process, `full` the loss of power."""
    redis: str | None
    """A Redis in front of the store: `redis://host:6379/0`."""
    compression: Compression | None
    """`zstd` or `gzip`: compress what is stored, where that makes it smaller."""
    compress_min_bytes: Size
    """`compression` leaves what is smaller as it is."""
    encryption_keys: KeySource | None
    """Encrypt what is stored: keys by name, the current one first, or `"file:…"` with a
    `name:base64` on each line."""
    table_prefix: str
    """The beginning of every table's name."""
    namespace: str | NamespaceOf
    """Keeps apart what shares a store; or a callable: names a request's namespace."""
    paths: Texts | None
    """Only these paths and what is below them (default: found by itself)."""
    health_path: str | None
    """Where this worker says whether it can serve, also at `/live` and `/ready` below: `/healthz`
    in the proxy, and behind the application's own routes in `with_persistence`."""
    persist: PersistOf | None
    """Callable: false exempts this request."""
    principal: PrincipalOf | None
    """Callable: names the caller whom streams belong to."""
    identity_headers: Texts
    """Headers that name the caller, beside those that authenticating proxies are known for."""
    expires: ExpiresOf | None
    """Callable: when (seconds since the Unix epoch) its caller's authorisation ends, and with it
    what it listens to; default: the `expires_at` of the access token in its scope."""
    modern_streams: ModernStreams
    """2026-07-28 streams: `resume` gives them ids, `pass` leaves them alone."""
    retry_ms: Milliseconds
    """How long clients wait before they come back; for an answer, 1 s at most while another worker
    is there."""
    modern_retry_ms: Milliseconds
    """How long clients of 2026-07-28 wait before they come back, in the same way."""
    ping_seconds: Duration
    """Keep-alive comments; 0 sends none."""
    prime_after: Duration | None
    """Open the stream of an answer that is this late."""
    prime_json: bool
    """`prime_after` also where the app answers in JSON mode."""
    session_ttl: Duration
    """A session lives this long without use."""
    brief_session_ttl: Duration
    """A session that had no more than `initialize` and a call or two lives this long without
    use."""
    max_sessions: int
    """Sessions kept of one principal, or of one address where there is none."""
    max_listeners: int
    """Connections of one principal, or of one address where there is none, that wait on GET streams
    and listens of one worker; for one more the oldest ends."""
    session_fallback: SessionFallback | None
    """`principal`: a request up to 2025-11-25 that names no session is served in the latest one of
    its principal."""
    revive: bool | PersistOf
    """Bring sessions back that the application does not hold; or a callable."""
    session_routing: SessionRouting
    """A session that another worker holds: `relay` its requests to it, `revive` it here, or
    `local`: never bring one back."""
    relay_scope: RelayScope | None
    """(dump, load): carry what outer middleware set to the session's worker."""
    rerun: RerunOf | None
    """Callable (session, request): true runs a request again whose worker died, when its client
    comes back."""
    rerun_seconds: Duration
    """How long a request that may be run again waits for its client before it ends with an
    error."""
    tasks: bool
    """Give clients of 2026-07-28 that know tasks one for a call that takes long, where the
    application has none itself."""
    tasks_after: Duration
    """A call that is not answered by then becomes a task; 0 at once."""
    tasks_for: Texts | TasksFor | None
    """Tools whose calls may become tasks (default: all); or a callable of tool and arguments."""
    tasks_ttl: Duration
    """A task and its result are kept this long from its beginning; what still runs then ends."""
    hand_back: Duration | None
    """A tool's call of a client without tasks that is not answered by then is answered with the
    word to call again with the same arguments (default: never)."""
    hand_back_for: Texts | TasksFor | None
    """Tools whose calls may be handed back so (default: all); or a callable of tool and
    arguments."""
    hand_back_ttl: Duration
    """The result of a call that was handed back answers the same call for so long after it was
    fetched; then the tool runs anew."""
    idempotency: bool
    """A call with an `Idempotency-Key` runs once: whoever repeats it gets the answer of the first,
    for `tasks_ttl`."""
    max_jobs: int
    """Tasks, and other calls that are asked for later, of one principal, or of one address where
    there is none."""
    max_jobs_in_all: int
    """The same of all together."""
    detach_seconds: Duration
    """Work goes on this long without a reader."""
    share_hints: bool
    """A `subscriptions/listen` hears of changes on every worker; False: of its own worker's."""
    missed_hints: Duration
    """A `subscriptions/listen` that comes back within this time hears of what it missed; 0: it does
    not."""
    disconnect_grace: Duration
    """2026-07-28: a client that is back within this time has not cancelled."""
    send_timeout: Duration
    """A client that takes nothing this long is cut."""
    resume_rotate: Duration | None
    """A resumed connection that delivered ends cleanly this often."""
    drain_seconds: Duration
    """How long calls may go on after SIGTERM."""
    ttl: Durations
    """A stream is kept this long after its end; by namespace, or a callable of its name."""
    anonymous_ttl: Duration
    """A stream without session and principal is kept this long after its end."""
    max_stream_events: int
    """Events kept of one stream."""
    max_stream_bytes: Size
    """Bytes kept of one stream."""
    max_kept_streams: Counts | None
    """Streams kept of one namespace after their end, the newest; by namespace, or a callable of its
    name."""
    max_kept_bytes: Sizes | None
    """Bytes kept of the events of these streams, in the same way."""
    max_store_bytes: Size | None
    """Bytes of the whole store: above it the oldest streams that have ended go, whatever `ttl`
    says."""
    journal: bool
    """Keep a row for each exchange that has ended: what was called, how it ended, what it took."""
    journal_params: Texts | Mapping[str, Texts]
    """Parameters of calls whose values the journal keeps: `name` of every tool, `tool:name` of
    one."""
    journal_ttl: Duration
    """A row of the journal is kept this long."""
    max_journal_rows: int
    """Rows of the journal that are kept, the newest."""
    max_event_bytes: Size
    """The largest event."""
    max_body_bytes: Size
    """Larger request bodies pass through."""
    max_detached: int
    """Exchanges that may run without a reader; then the newest of whoever has the most end."""
    max_detached_of_one: int
    """The same of one principal, or of one address where there is none."""
    run_ahead_events: int
    """Events of one stream that wait for the store."""
    run_ahead_bytes: Size
    """Bytes of one stream that wait for the store."""
    store_timeout: Duration
    """How long a failing store is tried."""
    lease_seconds: Duration
    """A worker that stands still this long is taken for dead."""
    on_store_failure: OnStoreFailure
    """`degrade`: go on live, without ids; `refuse`: errors."""
    purge_interval: Duration
    """How often retention runs."""
