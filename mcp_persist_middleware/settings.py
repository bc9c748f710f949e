"""Every setting, its default, its meaning and its check, in one place.

A value comes from the argument, else from `MCP_PERSIST_<NAME>` in the environment (but `log`, which
can only be a callable), else it is the default. Nothing here touches a store; `Settings.load`
raises `ConfigurationError` only.
"""

import contextlib
import difflib
import logging
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

from starlette.requests import HTTPConnection
from starlette.types import Scope

from mcp_persist_middleware import keyring
from mcp_persist_middleware.errors import (
    ConfigurationError,
    InvalidSettingError,
    UnknownSettingError,
)
from mcp_persist_middleware.keyring import Keyring
from mcp_persist_middleware.model import Owner

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

logger = logging.getLogger(__name__)

PREFIX = "MCP_PERSIST_"
# Of these one is given.
_STORES = ("url", "engine", "log")
# A variable of that name is somebody else's, or a level of logging.
_NOT_IN_ENVIRONMENT = ("log",)
# Of this project's own tests.
_TESTS = PREFIX + "TEST_"
# They may hold a password.
_SECRET = ("url", "redis")
# What is wrong with them is found out later.
_REMEMBERED = (*_SECRET, "redis_durability")
_KIB, _MIB = 1024, 1024 * 1024

Synchronous = Literal["normal", "full"]
ModernStreams = Literal["resume", "pass"]
OnStoreFailure = Literal["degrade", "refuse"]
RedisDurability = Literal["memory", "replica", "sql"]
Compression = Literal["zstd", "gzip"]
SessionRouting = Literal["relay", "revive", "local"]
NamespaceOf = Callable[[HTTPConnection], str]
PrincipalOf = Callable[[HTTPConnection], str | None]
PersistOf = Callable[[HTTPConnection], bool]
RerunOf = Callable[[str | None, dict[str, Any]], bool]
RelayScope = tuple[Callable[[Scope], Any], Callable[[Scope, Any], None]]

_CHOICES: Mapping[str, tuple[str, ...]] = {
    "synchronous": get_args(Synchronous),
    "modern_streams": get_args(ModernStreams),
    "on_store_failure": get_args(OnStoreFailure),
    "redis_durability": get_args(RedisDurability),
    "compression": get_args(Compression),
    "session_routing": get_args(SessionRouting),
}


def _setting(default: Any, help_text: str, *, low: float | None = None, none: bool = False) -> Any:
    return field(default=default, metadata={"help": help_text, "low": low, "none": none})


class Given(str):
    """A text as it was given, which remembers by what, and in which directory a relative file name
    in it begins: a process may go elsewhere later."""

    __slots__ = ("base", "source")

    def __new__(cls, text: str, source: str = "argument") -> Self:
        made = super().__new__(cls, text)
        made.source, made.base = source, Path()
        with contextlib.suppress(OSError):
            made.base = Path.cwd()
        return made

    source: str
    base: Path


def source_of(value: object) -> str:
    """What a value was given by: `argument`, or the name of a variable."""
    return value.source if isinstance(value, Given) else "argument"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Settings:
    """A checked configuration. Times are seconds unless the name says otherwise."""

    enabled: bool = _setting(True, "false: everything passes through, and no store is opened")
    url: str | None = _setting(None, "the store, any SQLAlchemy URL or a file name", none=True)
    engine: "AsyncEngine | None" = _setting(None, "an engine of yours; never closed", none=True)
    log: Callable[["Settings"], object] | None = _setting(
        None,
        "instead of `url`, a store of yours: a callable of the `Settings` that makes an `EventLog`",
        none=True,
    )
    synchronous: Synchronous = _setting(
        "normal",
        "SQLite: `normal` survives the death of the process, `full` the loss of power",
    )
    redis: str | None = _setting(
        None, "a Redis in front of the store: `redis://host:6379/0`", none=True
    )
    redis_durability: RedisDurability = _setting(
        "memory",
        "with `redis`, an event counts as committed when Redis has it (`memory`), a replica too "
        "(`replica`), or the store (`sql`)",
    )
    compression: Compression | None = _setting(
        None, "`zstd` or `gzip`: compress what is stored, where that makes it smaller", none=True
    )
    compress_min_bytes: int = _setting(1024, "`compression` leaves what is smaller as it is", low=0)
    encryption_keys: Keyring | None = _setting(
        None,
        'encrypt what is stored: keys by name, the current one first, or `"file:…"` with a '
        "`name:base64` on each line",
        none=True,
    )
    table_prefix: str = _setting("mcp_", "the beginning of every table's name")
    namespace: str | NamespaceOf = _setting(
        "default", "keeps apart what shares a store; or a callable: names a request's namespace"
    )
    paths: tuple[str, ...] | None = _setting(
        None, "only these paths and what is below them (default: found by itself)", none=True
    )
    persist: PersistOf | None = _setting(None, "callable: false exempts this request", none=True)
    principal: PrincipalOf | None = _setting(
        None, "callable: names the caller whom streams belong to", none=True
    )
    identity_headers: tuple[str, ...] = _setting(
        (), "headers that name the caller, beside those that authenticating proxies are known for"
    )
    modern_streams: ModernStreams = _setting(
        "resume", "2026-07-28 streams: `resume` gives them ids, `pass` leaves them alone"
    )
    retry_ms: int = _setting(3000, "how long clients wait before they come back", low=0)
    # Clients try twice: the first time within `disconnect_grace`, the second after a restart.
    modern_retry_ms: int = _setting(2000, "the same at 2026-07-28", low=0)
    ping_seconds: float = _setting(15.0, "keep-alive comments; 0 sends none", low=0)
    prime_after: float | None = _setting(
        1.0, "open the stream of an answer that is this late", low=0, none=True
    )
    prime_json: bool = _setting(False, "`prime_after` also where the app answers in JSON mode")
    session_ttl: float = _setting(86_400.0, "a session lives this long without use", low=1)
    brief_session_ttl: float = _setting(
        600.0, "the same for one that had no more than `initialize` and a call or two", low=1
    )
    max_sessions: int = _setting(
        1000, "sessions kept of one principal, or of one address where there is none", low=1
    )
    revive: bool | PersistOf = _setting(
        True, "bring sessions back that the application does not hold; or a callable"
    )
    session_routing: SessionRouting = _setting(
        "relay",
        "a session that another worker holds: `relay` its requests to it, `revive` it here, or "
        "`local`: never bring one back",
    )
    relay_scope: RelayScope | None = _setting(
        None, "(dump, load): carry what outer middleware set to the session's worker", none=True
    )
    rerun: RerunOf | None = _setting(
        None,
        "callable (session, request): true runs a request again whose worker died, when its "
        "client comes back",
        none=True,
    )
    rerun_seconds: float = _setting(
        60.0, "how long such a request waits for its client before it ends with an error", low=0
    )
    detach_seconds: float = _setting(3600.0, "work goes on this long without a reader", low=0)
    disconnect_grace: float = _setting(
        4.0, "2026-07-28: a client that is back within this time has not cancelled", low=0
    )
    send_timeout: float = _setting(30.0, "a client that takes nothing this long is cut", low=0.1)
    resume_rotate: float | None = _setting(
        2.0, "a resumed connection that delivered ends cleanly this often", low=0.05, none=True
    )
    drain_seconds: float = _setting(8.0, "how long calls may go on after SIGTERM", low=0)
    ttl: float = _setting(86_400.0, "a stream is kept this long after its end", low=0)
    anonymous_ttl: float = _setting(
        300.0, "the same for a stream without session and principal", low=0
    )
    max_stream_events: int = _setting(10_000, "events kept of one stream", low=16)
    max_stream_bytes: int = _setting(64 * _MIB, "bytes kept of one stream", low=64 * _KIB)
    max_event_bytes: int = _setting(64 * _MIB, "the largest event", low=64 * _KIB)
    max_body_bytes: int = _setting(4 * _MIB, "larger request bodies pass through", low=_KIB)
    max_detached: int = _setting(
        10_000,
        "exchanges that may run without a reader; then the newest of whoever has the most end",
        low=1,
    )
    run_ahead_events: int = _setting(256, "events of one stream that wait for the store", low=1)
    run_ahead_bytes: int = _setting(1 * _MIB, "bytes of one stream that wait for the store", low=1)
    store_timeout: float = _setting(5.0, "how long a failing store is tried", low=0.05)
    lease_seconds: float = _setting(
        10.0, "a worker that stands still this long is taken for dead", low=1
    )
    on_store_failure: OnStoreFailure = _setting(
        "degrade", "`degrade`: go on live, without ids; `refuse`: errors"
    )
    purge_interval: float = _setting(60.0, "how often retention runs", low=0.05)

    def kept_for(self, owner: Owner) -> float:
        """How long (seconds) a stream is kept after its end, however it comes to it: one that
        anybody may read who has its id is not kept for long."""
        return self.ttl if owner.is_known else min(self.ttl, self.anonymous_ttl)

    def __repr__(self) -> str:
        """What differs from the default, without anything that may be secret."""
        shown = (
            f"{f.name}={_shown(f.name, getattr(self, f.name))}"
            for f in fields(self)
            if getattr(self, f.name) != f.default
        )
        return f"Settings({', '.join(shown)})"

    @classmethod
    def load(cls, given: Mapping[str, Any], environ: Mapping[str, str] = os.environ) -> "Settings":
        """Merge arguments, environment and defaults, and check every value.

        Raises:
            ConfigurationError: a name or a value is wrong; the text says which and what to do.
        """
        known = {f.name: f for f in fields(cls)}
        for name in given:
            if name not in known:
                raise _unknown(name, known)
        values: dict[str, Any] = {}
        for name, spec in known.items():
            variable = PREFIX + name.upper()
            if name in given:
                values[name] = _check(name, given[name], spec, "argument")
            elif variable in environ and name not in _NOT_IN_ENVIRONMENT:
                values[name] = _check(name, _parse(environ[variable], spec), spec, variable)
        _warn_of_strangers(environ, known)
        settings = cls(**values)
        if not settings.enabled:
            return settings
        stores = [name for name in _STORES if getattr(settings, name) is not None]
        if not stores:
            raise ConfigurationError(
                reason='no store is named; pass url="sqlite+aiosqlite:///events.db", '
                f"or set {PREFIX}URL"
            )
        if len(stores) > 1:
            named = [
                name if name in given else f"{name} ({PREFIX}{name.upper()} in the environment)"
                for name in stores
            ]
            raise ConfigurationError(
                reason=f"{' and '.join(named)} are given together; keep one of them"
            )
        if settings.store_timeout >= settings.lease_seconds:
            raise ConfigurationError(
                reason=f"store_timeout ({settings.store_timeout:g} s) must be shorter than "
                f"lease_seconds ({settings.lease_seconds:g} s), or a store that is slow for a "
                "moment would look like a dead worker; lower the one or raise the other"
            )
        return settings


def _warn_of_strangers(environ: Mapping[str, str], known: Mapping[str, Any]) -> None:
    """A variable that looks like a setting and is none: it may be misspelt, or somebody else's."""
    variables = {PREFIX + name.upper() for name in known}
    for name in environ:
        if name.startswith(PREFIX) and name not in variables and not name.startswith(_TESTS):
            close = difflib.get_close_matches(name.removeprefix(PREFIX).lower(), known, n=1)
            hint = f" (did you mean {PREFIX}{close[0].upper()}?)" if close else ""
            logger.warning(
                "%s in the environment is no setting and is ignored%s; another package, "
                "mcp-persist, reads variables that begin with %s too",
                name,
                hint,
                PREFIX,
            )


def _shown(name: str, value: Any) -> str:
    if name in _SECRET and isinstance(value, str):
        return repr(shown_url(value))
    if isinstance(value, str):
        return repr(str(value))
    if value is None or isinstance(value, bool | int | float):
        return repr(value)
    if name == "paths":
        return repr(tuple(map(str, value)))
    # Of itself it may show what it was made with.
    return f"<{getattr(value, '__qualname__', type(value).__qualname__)}>"


def shown_url(text: str) -> str:
    """A URL or file name as it may be shown: of a URL that can hold a secret the scheme alone."""
    scheme, separator, rest = text.partition("://")
    if not separator or (rest.startswith("/") and "?" not in rest):
        return str(text)
    return f"{scheme[:20]}://…"


def _unknown(name: str, known: Mapping[str, Any]) -> UnknownSettingError:
    close = difflib.get_close_matches(name, known, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    return UnknownSettingError(name=name, hint=hint, known=", ".join(known))


def _parse(text: str, spec: Any) -> Any:
    """A value from the environment, in the type of its setting; text that does not parse is
    returned as it is, and refused by the check."""
    if spec.metadata["none"] and text.strip().lower() in ("", "none", "off"):
        return None
    sample = spec.default
    if spec.name in ("paths", "identity_headers"):
        return tuple(part.strip() for part in text.split(",") if part.strip())
    if isinstance(sample, bool):
        return {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}.get(
            text.strip().lower(), text
        )
    if isinstance(sample, int | float):
        try:
            return type(sample)(text)
        except ValueError:
            return text
    return text


def _check(name: str, value: Any, spec: Any, source: str) -> Any:
    of_keys = name == "encryption_keys" and value is not None
    expected = keyring.complaint(value) if of_keys else _complaint(value, spec)
    if expected is not None:
        shown = value if name not in (*_SECRET, "log", "encryption_keys") else "(hidden)"
        raise InvalidSettingError(name=name, source=source, value=shown, expected=expected)
    if name == "identity_headers":
        return tuple(value)
    if of_keys:
        return Keyring.load(value)
    if name == "paths" and value is not None:
        return tuple(path.rstrip("/") or "/" for path in value)
    _check_hash(name, value, source)
    return Given(value, source) if name in _REMEMBERED and value is not None else value


def _check_hash(name: str, value: Any, source: str) -> None:
    """Mounts with equal settings share a worker, which is found by them."""
    try:
        hash(value)
    except TypeError as error:
        # What it shows of itself may be secret.
        raise InvalidSettingError(
            name=name,
            source=source,
            value=type(value).__name__,
            expected="it cannot be hashed; expected a function, or an object that can "
            "(of a dataclass: frozen=True or eq=False)",
        ) from error


def _complaint(value: Any, spec: Any) -> str | None:
    """What a value should have been, or None when it is right."""
    if value is None:
        return None if spec.metadata["none"] else "it cannot be None"
    match spec.name:
        case "url" | "redis":
            what = "a URL or a file name" if spec.name == "url" else "a URL, redis://…"
            is_text = isinstance(value, str) and value
            return _ambiguous(value) if is_text else f"expected {what}"
        case "engine":
            is_engine = hasattr(value, "sync_engine")
            return None if is_engine else "expected a sqlalchemy.ext.asyncio.AsyncEngine"
        case "log" | "persist" | "principal" | "revive" | "rerun":
            return _callable(value, spec)
        case "namespace":
            return None if callable(value) else namespace_complaint(value)
        case "paths" | "identity_headers":
            return _several(value, spec)
        case "table_prefix":
            return _prefix_complaint(value)
        case "relay_scope":
            right = isinstance(value, tuple) and len(value) == 2 and all(map(callable, value))
            return None if right else "expected a tuple of two callables, (dump, load)"
        case name if name in _CHOICES:
            return _one_of(value, _CHOICES[name])
        case _:
            return _scalar(value, spec)


# What stands before the last colon and @ of this is user and password to every parser.
_AUTHORITY = re.compile(r"[^:/?#]*://(?P<login>[^:/]*(?::[^@]*)?@)?(?P<rest>.*)", re.DOTALL)


def _ambiguous(text: str) -> str | None:
    """Whether a part of the password may be taken for the host or what follows it, and be shown."""
    found = _AUTHORITY.fullmatch(text)
    if found is None or (found["rest"].startswith("/") and not found["login"]):
        # A file's name, which may have any sign.
        return None
    place = found["rest"] if found["login"] else found["rest"].partition("?")[0]
    fix = "in user and password write @ as %40, / as %2F, ? as %3F, # as %23 and : as %3A"
    return f"it is not clear where its password ends; {fix}" if "@" in place else None


def _several(value: Any, spec: Any) -> str | None:
    """What is wrong with a list of paths, or of names of headers."""
    of_paths = spec.name == "paths"
    pattern = re.compile(r"/.*" if of_paths else r"[A-Za-z0-9][A-Za-z0-9_-]*", re.DOTALL)
    texts = not isinstance(value, str) and all(isinstance(each, str) for each in value)
    if texts and all(pattern.fullmatch(each) for each in value):
        return None
    return "expected a list of " + ('paths such as ["/mcp"]' if of_paths else 'names: ["X-User"]')


def namespace_complaint(value: Any) -> str | None:
    """What is wrong with the name of a namespace, or None."""
    right = isinstance(value, str) and 0 < len(value) <= 255 and value.isprintable()
    return None if right else "expected a printable text of 1 to 255 characters"


def _prefix_complaint(value: Any) -> str | None:
    # PostgreSQL cuts names after 63 bytes, and then two tables have one name.
    if not (isinstance(value, str) and value.isidentifier() and len(value.encode()) <= 32):
        return "expected at most 32 letters (bytes in UTF-8), digits and underscores"
    if value.lower().startswith("sqlite_"):
        return "names that begin with sqlite_ are SQLite's own; expected another beginning"
    return None


_ARGUMENTS = {
    "rerun": "session and request",
    "log": "the Settings that returns a new EventLog",
}


def _callable(value: Any, spec: Any) -> str | None:
    or_bool = isinstance(spec.default, bool)
    if callable(value) or (or_bool and isinstance(value, bool)):
        return None
    of = _ARGUMENTS.get(spec.name, "one HTTPConnection")
    return f"expected {'True, False or ' if or_bool else ''}a callable of {of}"


def _one_of(value: Any, choices: tuple[str, ...]) -> str | None:
    return None if value in choices else "expected one of " + ", ".join(map(repr, choices))


def _scalar(value: Any, spec: Any) -> str | None:
    sample, low = spec.default, spec.metadata["low"]
    match sample:
        case bool():
            return None if isinstance(value, bool) else "expected True or False"
        case str():
            right = isinstance(value, str) and 0 < len(value) <= 255
            return None if right else "expected a text of 1 to 255 characters"
        case _:
            numeric = isinstance(value, int | float) and not isinstance(value, bool)
            whole = isinstance(value, int) or isinstance(sample, float)
            if numeric and whole and value >= low:  # false for NaN
                return None
            what = "a number" if isinstance(sample, float) else "a whole number"
            return f"expected {what} of at least {low}"
