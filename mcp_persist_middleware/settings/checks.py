"""What is right and what is wrong with one value."""

import functools
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, get_args

from mcp_persist_middleware import keyring
from mcp_persist_middleware.errors import InvalidSettingError
from mcp_persist_middleware.keyring import Keyring
from mcp_persist_middleware.settings import namespaces, units
from mcp_persist_middleware.settings.arguments import (
    Compression,
    ModernStreams,
    OnStoreFailure,
    SessionFallback,
    SessionRouting,
    Synchronous,
)
from mcp_persist_middleware.settings.given import SECRET, Given
from mcp_persist_middleware.settings.namespaces import ByNamespace

_CHOICES: Mapping[str, tuple[str, ...]] = {
    "synchronous": get_args(Synchronous),
    "modern_streams": get_args(ModernStreams),
    "on_store_failure": get_args(OnStoreFailure),
    "compression": get_args(Compression),
    "session_fallback": get_args(SessionFallback),
    "session_routing": get_args(SessionRouting),
}


def parsed(text: str, spec: Any) -> Any:
    """A value from the environment, in the type of its setting; text that does not parse is
    returned as it is, and refused by the check."""
    if spec.metadata["none"] and text.strip().lower() in ("", "none", "off"):
        return None
    sample = spec.default
    if spec.metadata["by_namespace"] and (named := namespaces.entries(text)) is not None:
        return {name: parsed(value, spec) for name, value in named.items()}
    if spec.name in (*_LISTS, *_NAMES):
        return tuple(part.strip() for part in text.split(",") if part.strip())
    if isinstance(sample, bool):
        return {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}.get(
            text.strip().lower(), text
        )
    if isinstance(sample, int) and spec.metadata["unit"] is None:
        try:
            return int(text)
        except ValueError:
            return text
    return text


def checked(name: str, value: Any, spec: Any, source: str) -> Any:
    """A value as the setting keeps it.

    Args:
        source: what it was given by.

    Raises:
        InvalidSettingError: it is not one of this setting's.
    """
    if spec.metadata["by_namespace"] and (isinstance(value, Mapping) or callable(value)):
        return _by_namespace(name, value, spec, source)
    given, unit = value, spec.metadata["unit"]
    value = _by_tool(value) if name == "journal_params" else value
    if unit is not None and isinstance(value, str) and (number := unit.parse(value)) is not None:
        value = number
    expected = _complaint(value, spec)
    if expected is not None:
        told = given if name not in (*SECRET, "log", "encryption_keys") else "(hidden)"
        raise InvalidSettingError(name=name, source=source, value=told, expected=expected)
    if name in ("identity_headers", "journal_params") or (
        name in _NAMES and isinstance(value, list)
    ):
        return tuple(value)
    if name == "encryption_keys" and value is not None:
        return Keyring.load(value)
    if name == "paths" and value is not None:
        return tuple(path.rstrip("/") or "/" for path in value)
    _check_hash(name, value, source)
    # What is wrong with them is found out later.
    return Given(value, source) if name in SECRET and value is not None else value


def _by_namespace(name: str, value: Any, spec: Any, source: str) -> ByNamespace:
    if callable(value):
        _check_hash(name, value, source)
        check = functools.partial(_one_value, name, spec, f"what {source} returned")
        return ByNamespace(spec.default, of=value, check=check)
    for each in value:
        if (complaint := namespace_complaint(each)) is not None:
            raise InvalidSettingError(name=name, source=source, value=each, expected=complaint)
    named = {each: checked(name, found, spec, source) for each, found in value.items()}
    return ByNamespace(named.pop(namespaces.DEFAULT, spec.default), tuple(named.items()))


def _one_value(name: str, spec: Any, source: str, value: Any) -> Any:
    return checked(name, value, spec, source)


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
        case "log" | "persist" | "principal" | "expires" | "revive" | "rerun":
            return _callable(value, spec)
        case "namespace":
            return None if callable(value) else namespace_complaint(value)
        case name if name in _LISTS:
            return _several(value, name)
        case name if name in _COMPLAINTS:
            return _COMPLAINTS[name](value)
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


# Settings that are names of tools, or a callable that picks them.
_NAMES = ("tasks_for", "hand_back_for")
# What each text of a list is, and what it looks like.
_LISTS: Mapping[str, tuple[str, str]] = {
    "paths": (r"/.*", 'paths such as ["/mcp"]'),
    "identity_headers": (r"[A-Za-z0-9][A-Za-z0-9_-]*", 'names: ["X-User"]'),
    "journal_params": (
        r"(.+:)?[^:,]{1,64}",
        'names: ["path", "search:query"], or one for each tool: {"search": ["query"]}',
    ),
}


def _several(value: Any, name: str) -> str | None:
    """What is wrong with a list of paths, of names of headers or of parameters."""
    pattern, example = _LISTS[name]
    texts = isinstance(value, Iterable) and not isinstance(value, str | bytes)
    if texts and all(
        isinstance(each, str) and re.fullmatch(pattern, each, re.DOTALL) for each in value
    ):
        return None
    return f"expected a list of {example}"


def _by_tool(value: Any) -> Any:
    """Parameters by tool as one list; what is none is left as it is, and refused."""
    if not isinstance(value, Mapping):
        return value
    named = [(tool, [each] if isinstance(each, str) else each) for tool, each in value.items()]
    if not all(isinstance(names, list | tuple) for _, names in named):
        return (None,)
    pairs = [(tool, name) for tool, names in named for name in names]
    right = all(isinstance(text, str) for pair in pairs for text in pair)
    return tuple(f"{tool}:{name}" for tool, name in pairs) if right else (None,)


def namespace_complaint(value: Any) -> str | None:
    """What is wrong with the name of a namespace, or None."""
    right = isinstance(value, str) and 0 < len(value) <= 255 and value.isprintable()
    return None if right else "expected a printable text of 1 to 255 characters"


def _tools(value: Any) -> str | None:
    names = isinstance(value, list | tuple) and all(isinstance(e, str) and e for e in value)
    if names or callable(value):
        return None
    return 'expected a list of names: ["render"], or a callable of tool and arguments'


def _place(value: Any) -> str | None:
    right = isinstance(value, str) and re.fullmatch(r"(/[\w.~-]+)+", value) is not None
    return None if right else 'expected a path such as "/healthz"'


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
            has_parts = isinstance(sample, float) or spec.metadata["unit"] is units.SECONDS
            whole = isinstance(value, int) or has_parts
            if numeric and whole and value >= low:  # false for NaN
                return None
            what = "a number" if has_parts else "a whole number"
            if (unit := spec.metadata["unit"]) is None:
                return f"expected {what} of at least {low}"
            return (
                f"expected {what} of {unit.name}, at least {low}, or a text such as {unit.examples}"
            )


_COMPLAINTS: Mapping[str, Callable[[Any], str | None]] = {
    "table_prefix": _prefix_complaint,
    "health_path": _place,
    "encryption_keys": keyring.complaint,
    "tasks_for": _tools,
    "hand_back_for": _tools,
}
